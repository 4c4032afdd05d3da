"""Thousands of waits on one connection, for jobs that fall due together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import anyio
from anyio import to_thread

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_more_than, number
from pushq.bench.run import Run
from pushq.bench.share.ears import ahead
from pushq.bench.supervisors import supervising
from pushq.errors import PushqError, WaitTimeout
from pushq.queue import Queue

WAITS = 5_000
SECONDS_AHEAD, SECONDS_AHEAD_LONG = 1.5, 4.0
"""From the INSERT until the jobs are due. Meanwhile the waits begin."""
SECONDS_TO_WAIT = 30.0


async def measure_crowd(run: Run) -> None:
    """The limit is the end of the last job, by the table: to tell and to fetch the ends is all that waits add."""
    count = run.scope.jobs(WAITS)
    stage = f"share, {number(count)} waits"
    if run.restore(stage):
        return
    whole = Measure("share", f"{number(count)} waits, from due until all have ended", "s", "until the last job ended")
    lost = Measure("share", f"{number(count)} waits: lost", "waits", target=no_more_than(0))
    async with run.ground.database() as url, connected(url) as connection:
        with supervising(url) as (supervisor,):
            await supervisor.wait_ready()
            async for _ in run.rounds(stage):
                due, jobs = await _insert(
                    connection, count, SECONDS_AHEAD_LONG if run.scope.is_long else run.scope.seconds(SECONDS_AHEAD)
                )
                ended = await to_thread.run_sync(_ends, url, jobs)
                run.add(whole, max(ended) + await ahead(connection) - due, await _last_end(connection, jobs) - due)
                run.add(lost, count - len(ended))


async def _insert(connection: Connection, count: int, seconds: float) -> tuple[float, list[UUID]]:
    """Inserts jobs, all due in `seconds`. Returns when, in seconds since 1970, and the ids."""
    rows = await connection.fetch(
        "insert into pushq.jobs (task, run_at) select 'bench.noop', now() + $2::float8 * interval '1 second' "
        "from generate_series(1, $1) returning id, extract(epoch from run_at)::float8 as due",
        count,
        seconds,
    )
    return rows[0]["due"], [row["id"] for row in rows]


def _ends(url: str, jobs: Sequence[UUID]) -> list[float]:
    """When each wait ended, by time.monotonic(), without those that were lost.

    The waits have an event loop of their own: with the loop end the connections that waits keep open for a while.
    """
    ended = asyncio.run(_wait_all(url, jobs))
    if not ended:
        raise PushqError(f"None of {len(jobs)} waits ended within {SECONDS_TO_WAIT:g} s.")
    return ended


async def _wait_all(url: str, jobs: Sequence[UUID]) -> list[float]:
    ended: list[float] = []

    async def wait(job: UUID) -> None:
        with suppress(WaitTimeout):
            await Queue().wait(job, timeout=SECONDS_TO_WAIT, url=url)
            ended.append(time.monotonic())

    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(wait, job)
    return ended


async def _last_end(connection: Connection, jobs: Sequence[UUID]) -> float:
    """When the last of the jobs ended, by the table, in seconds since 1970."""
    last = await connection.fetchval(
        "select extract(epoch from max(finished_at))::float8 from pushq.jobs "
        "where id = any($1::uuid[]) and finished_on < 'infinity'",
        jobs,
    )
    return float(last)
