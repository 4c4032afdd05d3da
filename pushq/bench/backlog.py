"""backlog: how soon an urgent job starts while many others are queued before it and every worker is busy."""

from __future__ import annotations

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, at_most, number
from pushq.bench.fill import fill_backlog
from pushq.bench.pick_up import PickUps, measured
from pushq.bench.run import Run
from pushq.bench.supervisors import supervising

RATE = 50
"""Urgent jobs inserted a second."""
SECONDS = 4.0
JOB_SECONDS = 0.05
CONCURRENCY = 20
FEW = 4_000
"""Jobs queued for the limit."""
AS_GOOD = 0.95

URGENT = "insert into pushq.jobs (task, payload, priority) values ('bench.stamp', '{}', -10) returning id"


async def measure_backlog(run: Run) -> None:
    """Workers are busy all the time, with few jobs queued and with many: only the length of the queue differs."""
    many = run.scope.jobs(1_000_000 if run.scope.is_long else 200_000)
    stage, limit = f"backlog, {number(many)} queued", f"with {number(FEW)} queued"
    middle = Measure("backlog", f"urgent, p50, {number(many)} queued", "ms", limit, at_most(1 / AS_GOOD))
    late = Measure("backlog", f"urgent, p99, {number(many)} queued", "ms", limit)
    if run.restore(stage):
        return
    async with (
        run.ground.database() as short_url,
        run.ground.database() as long_url,
        connected(short_url) as short,
        connected(long_url) as long,
    ):
        run.show(f"{stage}: loading")
        await fill_backlog(long, many, JOB_SECONDS)
        async for _ in run.rounds(stage):
            with_many = await _urgent(long_url, long, run.scope.seconds(SECONDS))
            await fill_backlog(short, FEW, JOB_SECONDS)
            with_few = await _urgent(short_url, short, run.scope.seconds(SECONDS))
            await short.execute("truncate pushq.jobs_unfinished")
            run.add(middle, with_many.percentile(0.5), with_few.percentile(0.5))
            run.add(late, with_many.percentile(0.99), with_few.percentile(0.99))


async def _urgent(url: str, connection: Connection, seconds: float) -> PickUps:
    with supervising(url, f"--concurrency={CONCURRENCY}", "--shutdown-timeout=0.2") as (supervisor,):
        await supervisor.wait_ready()
        await measured(connection, RATE, 0.5, URGENT)
        return await measured(connection, RATE, seconds, URGENT)
