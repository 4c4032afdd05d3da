"""The database is far away: each statement takes its time, though the database does not."""

from __future__ import annotations

import asyncio

from tests.support.jobs import Connection, finished, insert
from tests.support.metrics import scrape
from tests.support.proxy import proxied
from tests.support.supervisors import RunningSupervisor, supervising

WATCHED = 3.0
"""Seconds."""


async def test_an_idle_pool_far_from_its_database_looks_for_no_jobs_all_the_time(
    database_url: str, connection: Connection
) -> None:
    """A claim that takes long need not be one that has much to pass, and has to be taken in slices."""
    async with proxied(database_url) as proxy:
        proxy.delay = 0.01
        with supervising(proxy.url, ready=False) as supervisor:
            await asyncio.to_thread(supervisor.wait_ready)
            for _ in range(3):
                await finished(connection, *await insert(connection, "echo", 3), within=10)
            await asyncio.sleep(3)  # until it knows the distance, has gone to sleep, and has said so
            before = await _wakeups(supervisor)
            await asyncio.sleep(WATCHED)

            assert await _wakeups(supervisor) - before < 4 * WATCHED  # none, unless the machine stalls


async def _wakeups(supervisor: RunningSupervisor) -> float:
    return await asyncio.to_thread(scrape, supervisor, "pushq_wakeups_total")
