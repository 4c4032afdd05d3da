"""docs/moving-in.md: what the page says cannot run on a view, and what it says can."""

from __future__ import annotations

import re
from io import BytesIO

import asyncpg
import pytest

from tests.support.jobs import Connection
from tests.support.pages import section

EXAMPLE = "ingest"


async def test_what_cannot_run_on_a_view_is_refused_as_the_page_says(connection: Connection) -> None:
    version = connection.get_server_version().major
    await connection.execute("set search_path = public")
    table = section("moving-in.md", "What cannot run on a view")
    rows = re.findall(r"^\| `(.+?)` \| (\w{5}) (.+?) \| .+ \|$", table, re.MULTILINE)
    assert len(rows) == 16
    for statement, sqlstate, said in rows:
        message, _, alone = said.partition(", on ")
        if alone and alone != f"{version} alone":
            await connection.execute(statement)
            continue
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(statement)
        assert (refused.value.sqlstate, str(refused.value).splitlines()[0]) == (sqlstate, message), statement


async def test_what_runs_does_what_it_did(connection: Connection) -> None:
    await connection.execute("set search_path = public; create table if not exists graphiti_jobs (job_id uuid)")
    assert await connection.fetchval("select to_regclass('graphiti_jobs') = 'public.graphiti_jobs'::regclass")
    assert await connection.fetchval("select count(*) from pg_tables where tablename = 'graphiti_jobs'") == 0
    rows = "".join(f"00000000-0000-0000-0000-00000000000{n}\tbulk\t{{}}\n" for n in range(3))

    async def copy() -> None:
        columns = ["job_id", "job_type", "payload"]
        await connection.copy_to_table("graphiti_jobs", source=BytesIO(rows.encode()), columns=columns, format="text")

    await copy()
    with pytest.raises(asyncpg.UniqueViolationError):
        await copy()
    insert = "insert into graphiti_jobs (job_id, job_type, payload) values ($1, 'bulk', '{}') on conflict do nothing"
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(insert, rows[:36])
    for lock in ("update", "share", "no key update", "update skip locked", "share nowait"):
        assert len(await connection.fetch(f"select * from graphiti_jobs for {lock}")) == 3
    async with connection.transaction(isolation="serializable"):
        started = "update graphiti_jobs set status = 'running' where status = 'queued' returning job_id, status"
        assert {row["status"] for row in await connection.fetch(started)} == {"running"}
    assert await connection.execute("update graphiti_jobs set status = 'committed'") == "UPDATE 3"
