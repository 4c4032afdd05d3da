"""A job wakes each idle pool once, however many of its workers are free, and a batch hardly more than a job."""

from __future__ import annotations

import asyncio

from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.metrics import scrape
from tests.support.supervisors import RunningSupervisor, supervising

POOLS = 2
FLAGS = ("--processes", str(POOLS), "--concurrency", "100")
EMPTY_CLAIMS = 40
"""At most, in a pool that was woken, until its gate is open again. A claim a worker would be more."""


async def test_a_job_wakes_pools_and_not_their_workers(database_url: str, connection: Connection) -> None:
    jobs = 5
    with supervising(database_url, *FLAGS, POLL_INTERVAL="0") as supervisor:
        rung, empty = await _wakeups(supervisor)
        for _ in range(jobs):
            await finished(connection, *await insert(connection, "echo"))
            await asyncio.sleep(0.2)  # mostly all are idle again; where not, there is less to count
        now_rung, now_empty = await _wakeups(supervisor)

        assert now_rung > rung
        assert now_rung - rung <= POOLS * jobs
        assert now_empty - empty <= EMPTY_CLAIMS * POOLS * jobs


async def test_thousands_of_jobs_of_one_transaction_ring_no_more_than_a_few_do(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, *FLAGS, POLL_INTERVAL="0") as supervisor:
        rung, empty = await _wakeups(supervisor)
        await insert(connection, "echo", 5000)
        await has_count(connection, 5000, "status = 'succeeded'", within=30)
        now_rung, now_empty = await _wakeups(supervisor)

        assert now_rung - rung <= 5 * POOLS  # by the INSERT, and by pools that shut their gates
        assert now_empty - empty <= 5 * EMPTY_CLAIMS * POOLS


async def _wakeups(supervisor: RunningSupervisor) -> tuple[float, float]:
    """How often pools were woken by the bell, and for any reason, which is after a claim that found nothing.

    Once they have told, as they do twice a second.
    """
    before = _count(supervisor)
    await asyncio.sleep(1.1)
    while before != (now := _count(supervisor)):
        before = now
        await asyncio.sleep(1.1)
    return now


def _count(supervisor: RunningSupervisor) -> tuple[float, float]:
    return scrape(supervisor, "pushq_wakeups_total", source="notify"), scrape(supervisor, "pushq_wakeups_total")
