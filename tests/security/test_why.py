"""Why a job waits, told to tenants: numbers of other tenants' jobs, never their ids, nor who operates the queue."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.commands import invoke
from tests.support.jobs import Connection, insert
from tests.support.roles import session


async def why(connection: Connection, job: UUID) -> dict[str, tuple[str, Any]]:
    rows = await connection.fetch("select * from pushq.why($1)", job)
    return {row["cause"]: (row["sentence"], json.loads(row["detail"])) for row in rows}


async def test_a_tenant_learns_of_its_own_jobs_alone_and_of_holders_their_number(
    connection: Connection, database_url: str, app: str
) -> None:
    await connection.execute("select pushq.limit('gpu', 2), pushq.pause('mail')")
    [theirs, waits_too] = await insert(connection, "echo", 2, needs=["gpu"], tenant_id="globex")
    [mine, waits] = await insert(connection, "echo", 2, needs=["gpu"], tenant_id="acme")
    for job in (theirs, mine):
        await connection.execute("select pushq.take($1, 'bert')", job)
    async with session(database_url, app, "acme") as acme:
        told = await why(acme, waits)
        assert told["needs"][0].endswith(f"; 2 jobs hold the rest: {mine}, and 1 other")
        assert (told["needs"][1]["held_by"], told["needs"][1]["holders"]) == ([str(mine)], 2)
        assert told["behind"][1]["jobs"] == 1
        assert str(theirs) not in str(told)
        for job in (theirs, waits_too):
            assert await why(acme, job) == {}
            assert await acme.fetchval("select pushq.position($1)", job) is None
        for function in ("why_queue('default')", "recent_rate('default')", "reserved_for($$x$$)", "stamp()"):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedFunctionError)):
                await acme.execute(f"select pushq.{function}")
    assert (await why(connection, waits))["needs"][1]["held_by"] == [str(theirs), str(mine)]


async def test_a_tenant_learns_neither_for_whom_units_are_reserved_nor_who_paused_a_queue(
    connection: Connection, database_url: str, app: str
) -> None:
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues, workers) "
        "values ('anna', 'here', 1, '1 hour', now() + interval '1 hour', '{echo}', '{default}', 10)"
    )
    await connection.execute("select pushq.limit('gpu', 2)")
    [small] = await insert(connection, "echo", needs=["gpu"], tenant_id="acme")
    await connection.execute("select pushq.take($1, 'bert')", small)
    [large] = await insert(connection, "echo", needs={"gpu": 2}, tenant_id="globex")
    await connection.execute("update pushq.jobs set run_at = now() - interval '5 s' where id = $1", large)
    [waits] = await insert(connection, "echo", needs=["gpu"], tenant_id="acme")
    async with session(database_url, app, "acme") as acme:
        sentence, detail = (await why(acme, waits))["reserved"]
        assert sentence == "what it needs of 'gpu' is reserved for another job, which has waited for longer"
        assert detail == {"name": "gpu", "for": None}
        await connection.execute("select pushq.pause('default')")
        sentence, detail = (await why(acme, waits))["paused"]
        assert ", by " not in sentence
        assert detail["by"] is None
    assert (await why(connection, waits))["paused"][1]["by"]


async def test_an_observer_may_ask_why_and_list_limits(connection: Connection, url_as: Any) -> None:
    [job] = await insert(connection, "echo", needs=["gpu"], tenant_id="acme")
    observer = await asyncpg.connect(url_as("observer"))
    assert "unserved" in await why(observer, job)
    assert await observer.fetch("select * from pushq.why_queue('default')")
    await observer.close()
    assert "gpu" in invoke("limits", url=url_as("observer")).stdout
