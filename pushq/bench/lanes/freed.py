"""How soon a unit that a job gives back is taken by a job that waits for it, in the same pool and in another."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from uuid import UUID

import anyio

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_more_than, percentile
from pushq.bench.run import Run
from pushq.bench.supervisors import supervising
from pushq.bench.waiting import wait_until
from pushq.errors import PushqError

RATE = 15
"""Pairs of jobs inserted a second."""
SECONDS, SECONDS_LONG = 1.5, 3.0
SECONDS_TO_FINISH = 30.0
QUEUES = ("bench.one", "bench.other")
"""Both jobs of a pair need the one unit. Each is of another queue, so neither follows the other in its lane."""
MOST_MS = {"its own pool": 2.0, "another pool": 10.0}

INSERT_PAIR = """
insert into pushq.jobs (task, payload, queue, needs)
select 'bench.sleep', '{"seconds": 0.02}', queue, '["bench.unit"]' from unnest($1::text[]) as queue
returning id
"""
GAPS = """
select extract(epoch from started_at - before_finished_at)::float8 * 1000 as gap
from (
    select
        queue, enqueued_at, started_at,
        lag(queue) over in_turn as before_queue, lag(finished_at) over in_turn as before_finished_at
    from pushq.jobs
    where id = any($1::uuid[]) and finished_on < 'infinity'
    window in_turn as (order by started_at)
) as its
where queue <> before_queue and before_finished_at > enqueued_at
"""


async def measure_freed(run: Run) -> None:
    """Inserts pairs of jobs, of which one waits for the other: for two supervisors, and for one that serves both."""
    stage = "lanes, a freed unit"
    if run.restore(stage):
        return
    seconds = run.scope.seconds(SECONDS_LONG if run.scope.is_long else SECONDS)
    async with _side(run, [QUEUES]) as own, _side(run, [[queue] for queue in QUEUES]) as others:
        sides = {"its own pool": own, "another pool": others}
        async for one in run.rounds(stage):
            for taker in sorted(sides, reverse=one % 2 == 0):
                gaps = await _gaps(sides[taker], seconds)
                for name, share, target in (("p50", 0.5, no_more_than(MOST_MS[taker])), ("p99", 0.99, None)):
                    measure = Measure("lanes", f"a freed unit taken by {taker}, {name}", "ms", target=target)
                    run.add(measure, percentile(gaps, share))


@asynccontextmanager
async def _side(run: Run, served: Sequence[Sequence[str]]) -> AsyncIterator[Connection]:
    """A database with supervisors. served: the queues of each."""
    async with run.ground.database() as url, connected(url) as connection:
        with ExitStack() as stack:
            for queues in served:
                flags = *(f"--queue={queue}" for queue in queues), "--poll-interval=0"
                (supervisor,) = stack.enter_context(supervising(url, *flags))
                await supervisor.wait_ready()
            await _gaps(connection, 0.4)  # fills caches
            yield connection


async def _gaps(connection: Connection, seconds: float) -> list[float]:
    """Milliseconds from the end of each job to the start of the job that waited for the unit, by their rows."""
    jobs: list[UUID] = []
    start = time.monotonic()
    for one in range(max(3, round(RATE * seconds))):
        await anyio.sleep(max(0.0, start + one / RATE - time.monotonic()))
        jobs += [row["id"] for row in await connection.fetch(INSERT_PAIR, QUEUES)]

    async def all_have_run() -> bool:
        return not await connection.fetchval("select exists (select from pushq.jobs_unfinished)")

    await wait_until(all_have_run, f"Not all of {len(jobs)} jobs were run", within=SECONDS_TO_FINISH)
    gaps = [row["gap"] for row in await connection.fetch(GAPS, jobs)]
    if not gaps or min(gaps) < 0:
        raise PushqError(f"Of {len(jobs)} jobs for one unit, some ran at once: {gaps[:5]}.")
    return gaps
