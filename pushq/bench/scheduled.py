"""scheduled: whether the number of jobs due later matters, and how late jobs start that fall due."""

from __future__ import annotations

from functools import partial
from typing import Any

from pushq.bench.connection import Connection, connected
from pushq.bench.contrast import measure_contrast
from pushq.bench.figures import Measure, no_more_than, number
from pushq.bench.fill import fill_later
from pushq.bench.ground import settle
from pushq.bench.run import Run
from pushq.bench.supervisors import TUNED, supervising
from pushq.bench.waiting import wait_until
from pushq.errors import PushqError

FEW = 200
SECONDS_AHEAD = 2.0
"""From the INSERT to the first due job, at least."""
SECONDS_TO_FINISH = 300.0


async def measure_scheduled(run: Run) -> None:
    later = run.scope.jobs(1_000_000 if run.scope.is_long else 200_000)
    await measure_contrast(run, "scheduled", f"{number(later)} due later", partial(fill_later, count=later))
    await _measure_lateness(run, FEW, seconds=4.0, target=True)
    await _measure_lateness(run, run.scope.jobs(100_000 if run.scope.is_long else 20_000), seconds=1.0, target=False)


async def _measure_lateness(run: Run, count: int, *, seconds: float, target: bool) -> None:
    """Measures how late jobs start: started_at - run_at. `count` jobs fall due at random within `seconds`."""
    what = f"{number(count)} due within {seconds:g} s"
    late = Measure("scheduled", f"{what}: late, p99", "ms", target=no_more_than(5) if target else None)
    latest = Measure("scheduled", f"{what}: late, max", "ms")
    rate = Measure("scheduled", f"{what}: first due to last finish", "jobs/s")
    async for _ in run.rounds(f"scheduled, {what}"):
        async with run.ground.database() as url, connected(url) as connection:
            with supervising(url, "--poll-interval=0", *([] if target else TUNED)) as (supervisor,):
                await supervisor.wait_ready()
                await _insert(connection, count, seconds)
                row = await _wait_finished(connection, count)
        run.add(late, row["p99"])
        run.add(latest, row["max"])
        run.add(rate, count / row["seconds"])


async def _insert(connection: Connection, count: int, seconds: float) -> None:
    """Inserts jobs due at random instants, the first only after all are inserted."""
    await connection.execute(
        "insert into pushq.jobs (task, run_at) "
        "select 'bench.noop', now() + interval '1 second' * ($2::float8 + $3::float8 * random()) "
        "from generate_series(1, $1)",
        count,
        SECONDS_AHEAD + count / 20_000,
        seconds,
    )
    await settle(connection)


async def _wait_finished(connection: Connection, count: int) -> Any:
    """A row of (finished, seconds, p99, max); p99 and max in milliseconds. Raises PushqError if a job did not run."""

    async def none_is_left() -> bool:
        return not await connection.fetchval("select true from pushq.jobs_unfinished limit 1")

    await wait_until(none_is_left, f"{count} jobs were not finished", within=SECONDS_TO_FINISH, every=0.25)
    row = await connection.fetchrow(
        "select count(*) as finished, extract(epoch from max(finished_at) - min(run_at))::float8 as seconds, "
        "1000 * extract(epoch from percentile_disc(0.99) within group (order by started_at - run_at))::float8 as p99, "
        "1000 * extract(epoch from max(started_at - run_at))::float8 as max "
        "from pushq.jobs where finished_on < 'infinity' and task = 'bench.noop'"
    )
    if row is None or row["finished"] != count:
        raise PushqError(f"Of {count} jobs that fell due not all were run.")
    return row
