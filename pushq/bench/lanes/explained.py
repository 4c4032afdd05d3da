"""How long `pushq.why` and `pushq.position` take for jobs that are the last of a long queue."""

from __future__ import annotations

import time
from uuid import UUID

from pushq.bench.bare import claim_arguments, register
from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_more_than, number, percentile
from pushq.bench.fill import fill_queue
from pushq.bench.run import Run
from pushq.database.statements import statement
from pushq.pool.store import Terms

QUEUED, QUEUED_LONG = 200_000, 1_000_000
IN_LANE = 1_000
QUESTIONS = 10
"""Questions a round, of each kind."""
MOST_MS = 40

LANE = "insert into pushq.jobs (task, needs) select 'bench.noop', '[\"bench.unit\"]' from generate_series(1, $1)"
LAST = """
select id from pushq.jobs_unfinished where status = 'queued' and lane is not distinct from $1 order by id desc limit 1
"""


async def measure_explained(run: Run) -> None:
    """Asks about the last job of the queue, and about the last of a lane whose unit is held."""
    queued = run.scope.jobs(QUEUED_LONG if run.scope.is_long else QUEUED)
    stage = f"lanes, why, {number(queued)} queued"
    if run.restore(stage):
        return
    async with run.ground.database() as url, connected(url) as connection:
        await register(url)
        run.show(f"{stage}: loading")
        await fill_queue(connection, queued, "default")
        await connection.execute(LANE, IN_LANE)
        (held,) = await connection.fetch(statement("claim"), *claim_arguments(1, Terms(1, lanes_first=True)))
        lane = await connection.fetchval("select lane from pushq.jobs_unfinished where id = $1", held["id"])
        last, in_lane = [await connection.fetchval(LAST, one) for one in (None, lane)]
        await _ask(connection, "why", last)
        async for _ in run.rounds(stage):
            for function in ("why", "position"):
                for whose, job in (("the last", last), ("the last of a lane", in_lane)):
                    what = f"{function} of {whose} of {number(queued)} queued, p50"
                    run.add(
                        Measure("lanes", what, "ms", target=no_more_than(MOST_MS)),
                        await _ask(connection, function, job),
                    )


async def _ask(connection: Connection, function: str, job: UUID) -> float:
    """The median, in milliseconds."""
    took: list[float] = []
    for _ in range(QUESTIONS):
        began = time.perf_counter()
        await connection.fetch(f"select * from pushq.{function}($1)", job)  # noqa: S608 - our own name
        took.append(1000 * (time.perf_counter() - began))
    return percentile(took, 0.5)
