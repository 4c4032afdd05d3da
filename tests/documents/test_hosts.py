"""The page about poolers and hosts: its question to a database, and its commands behind PgBouncer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from tests.support.jobs import Connection, finished
from tests.support.pages import Shell, blocks, commands, section
from tests.support.pgbouncer import pooling
from tests.support.supervisors import supervising

PAGE = "how-to/hosts.md"


async def test_a_database_says_what_it_allows(connection: Connection) -> None:
    (ask,) = blocks("sql", section(PAGE, "What matters anywhere"))
    answer = await connection.fetchrow(ask)

    assert answer
    assert (answer["encoding"], answer["may_make_schema"], answer["may_make_roles"]) == ("UTF8", True, True)


async def test_behind_a_transaction_pooler_one_migrates_and_hears_by_the_direct_url(
    empty_database_url: str, server_bin_directory: Path, tmp_path: Path
) -> None:
    (script,) = commands(section(PAGE, "Transaction poolers"))
    prepare, supervise = script.rsplit("\n", 1)
    assert supervise == "pushq supervise app.jobs:tasks"
    with pooling(empty_database_url) as pooled:
        urls = {"POOLED": pooled, "DIRECT": empty_database_url}
        said = await asyncio.to_thread(Shell(pooled, server_bin_directory, tmp_path, urls).run, prepare)
        assert "is up to date." in said

        # without polls, only the bell finds the job
        with supervising(pooled, LISTEN_DATABASE_URL=empty_database_url, POLL_INTERVAL="0") as supervisor:
            app = await asyncpg.connect(pooled, statement_cache_size=0)
            job = await app.fetchval("insert into pushq.jobs (task) values ('echo') returning id")
            await finished(app, job)
            await app.close()
            assert "bell up" in supervisor.said
