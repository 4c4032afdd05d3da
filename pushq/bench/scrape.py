"""scrape: how long /metrics takes, with and without history and a queue."""

from __future__ import annotations

import time

from pushq.bench.connection import Connection, connected
from pushq.bench.drain import drain
from pushq.bench.figures import Measure, Target, at_most, no_more_than, number
from pushq.bench.fill import fill_history, fill_queue
from pushq.bench.run import Run
from pushq.bench.supervisors import RunningSupervisor, supervising
from pushq.errors import PushqError

SCRAPES = 20
FEW = 500


async def measure_scrape(run: Run) -> None:
    """Scrapes a full and an empty database in turn. Both have run a few jobs, so that /metrics has samples."""
    finished, queued = (10_000_000, 1_000_000) if run.scope.is_long else (100_000, 50_000)
    finished, queued = run.scope.jobs(finished), run.scope.jobs(queued)
    what = f"{number(finished)} finished, {number(queued)} queued"
    if run.restore(f"scrape {what}"):
        return
    async with run.ground.database() as empty_url, run.ground.database() as full_url:
        for url in (empty_url, full_url):
            await drain(url, FEW)
        async with connected(full_url) as connection:
            run.show(f"scrape: loading {what}")
            await fill_history(connection, finished)
            await fill_queue(connection, queued)
            await _count_soon(connection)
        with supervising(empty_url) as (empty,), supervising(full_url) as (full,):
            await empty.wait_ready()
            await full.wait_ready()
            await _measure(run, empty, full, what)


async def _measure(run: Run, empty: RunningSupervisor, full: RunningSupervisor, what: str) -> None:
    async for _ in run.rounds(f"scrape {what}"):
        times = [(await _scrape(full), await _scrape(empty)) for _ in range(SCRAPES)]
        with_all, with_none = (sum(column) / SCRAPES for column in zip(*times, strict=True))
        targets: tuple[Target, ...] = (no_more_than(50), at_most(1.25))
        for target in targets:
            run.add(Measure("scrape", what, "ms", "on an empty database", target), with_all, with_none)


async def _scrape(supervisor: RunningSupervisor) -> float:
    """Milliseconds for one scrape."""
    began = time.perf_counter()
    status, body = await supervisor.get("/metrics")
    took = time.perf_counter() - began
    if status != 200 or "pushq_jobs_finished_total" not in body:
        raise PushqError(f"/metrics answered {status}: {body[:200]}")
    return 1000 * took


async def _count_soon(connection: Connection) -> None:
    """Makes the next sweep count the unfinished jobs again."""
    await connection.execute("update pushq.census_clock set taken_at = '-infinity', took = '0'")
