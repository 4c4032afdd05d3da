"""A pool's memory does not grow with time, nor with what happens to its connections."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising

JOBS = 500
MOST_GROWTH = 0.6
"""MiB. Where large buffers come from the heap, it is 1.0 to 1.7."""


async def test_after_its_connections_were_ended_a_pool_s_memory_stays_as_it_is(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        (pool,) = supervisor.pools

        async def work(rounds: int) -> float:
            """MiB that are resident afterwards."""
            for _ in range(rounds):
                await finished(connection, *await insert(connection, "echo", JOBS, payload={"word": "x"}))
            pages = int(Path(f"/proc/{pool}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

        before = await work(3)
        for _ in range(5):
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name ~ '^pushq ' and datname = current_database()"
            )
            after = await work(10)
        assert after - before < MOST_GROWTH
        assert supervisor.pools == [pool]
