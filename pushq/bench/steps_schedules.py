"""How late the jobs of schedules are: 100 slots within a second, and at one instant, among 10,000 schedules.

Real supervisors keep the schedules. A deferred trigger notes when each job's transaction commits, but for the flush.
The row tells when its handler was about to be called (`started_at`). What a look takes beside 10 and 10,000 schedules
is measured by the clock, on one connection.

A part of a scenario to come. Until then, `measure_schedules` is given to `pushq.bench.measure.measure` as a scenario of
its own.
"""

from __future__ import annotations

import time
from typing import Any

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_more_than, percentile
from pushq.bench.ground import checkpoint
from pushq.bench.run import Run
from pushq.bench.supervisors import supervising
from pushq.bench.waiting import wait_until
from pushq.database.statements import statement
from pushq.errors import PushqError

SCHEDULES = 10_000
DUE = 100
SECONDS_AHEAD = 2.0
"""From the INSERT to the first slot."""
WITHIN = {"within a second": 1.0, "at one instant": 0.0}
SUPERVISORS = (1, 3)
MOST_MS = 20.0
LOOKS = 200
SECONDS_TO_FINISH = 30.0

IDLE = """
insert into pushq.schedules (name, cron, task, next_at)
select 'idle' || n, '0 2 * * *', 'bench.noop', now() + interval '1 hour' + n * interval '1 second'
from generate_series(1, $1) as n
"""
DUE_SOON = """
insert into pushq.schedules (name, cron, task, next_at)
select 'due' || n, '0 2 * * *', 'bench.noop', now() + interval '1 second' * ($2::float8 + $3::float8 * random())
from generate_series(1, $1) as n
"""
NOTE_COMMITS = """
create table public.bench_commits (late float8);
create function public.bench_note_commit() returns trigger language plpgsql as $$
begin
    insert into public.bench_commits values (extract(epoch from clock_timestamp() - new.run_at));
    return null;
end
$$;
create constraint trigger bench_note_commit
after insert on pushq.jobs_unfinished
deferrable initially deferred
for each row when (new.correlation_id like 'schedule due%') execute function public.bench_note_commit();
"""
LATE = """
select
    count(*) as jobs, count(distinct correlation_id) as schedules,
    (select array_agg(late * 1000) from public.bench_commits) as inserted,
    array_agg(extract(epoch from started_at - run_at)::float8 * 1000) as started
from pushq.jobs
where correlation_id like 'schedule due%'
"""

ENDED = """
select count(*) >= $1
from pushq.jobs
where correlation_id like 'schedule due%' and finished_on < 'infinity'
"""


async def measure_schedules(run: Run) -> None:
    for supervisors in SUPERVISORS:
        for what, seconds in WITHIN.items():
            await _measure_lateness(run, supervisors, what, seconds)
    await _measure_looks(run)


async def _measure_lateness(run: Run, supervisors: int, what: str, seconds: float) -> None:
    stage = f"{DUE} schedules of {SCHEDULES:,} due {what}, {supervisors} supervisor{'s' * (supervisors > 1)}"
    if run.restore(stage):
        return
    async with run.ground.database() as url, connected(url) as connection:
        await connection.execute(NOTE_COMMITS)
        await connection.execute(IDLE, SCHEDULES - DUE)
        with supervising(url, "--poll-interval=0", supervisors=supervisors) as running:
            for one in running:
                await one.wait_ready()
            await _late(connection, 0.5)  # fills caches
            async for _ in run.rounds(stage):
                row = await _late(connection, seconds)
                for until in ("inserted", "started"):
                    for name, share in (("p50", 0.5), ("p99", 0.99)):
                        target = no_more_than(MOST_MS) if (until, name) == ("inserted", "p99") else None
                        measure = Measure("steps", f"{stage}: {until}, {name}", "ms", target=target)
                        run.add(measure, percentile(row[until], share))


async def _late(connection: Connection, seconds: float) -> Any:
    """Lets slots fall due. Returns how late each job was, in milliseconds.

    Raises PushqError unless each slot has one job.
    """
    await connection.execute("delete from pushq.schedules where name like 'due%'")
    await connection.execute("delete from pushq.jobs where correlation_id like 'schedule due%'")
    await connection.execute("truncate public.bench_commits")
    await connection.execute("vacuum (analyze) pushq.schedules")
    await checkpoint(connection)
    await connection.execute(DUE_SOON, DUE, SECONDS_AHEAD, seconds)

    async def all_have_run() -> bool:
        return bool(await connection.fetchval(ENDED, DUE))

    await wait_until(all_have_run, f"Not all of {DUE} slots had jobs that ran", within=SECONDS_TO_FINISH, every=0.2)
    row = await connection.fetchrow(LATE)
    if row is None or (row["jobs"], row["schedules"]) != (DUE, DUE):
        raise PushqError(f"Of {DUE} slots, not each had one job: {row and row['jobs']}, {row and row['schedules']}.")
    return row


async def _measure_looks(run: Run) -> None:
    """How long a supervisor's look takes beside few schedules and beside many."""
    stage = "a look at schedules"
    if run.restore(stage):
        return
    async with (
        run.ground.database() as few,
        connected(few) as beside_few,
        run.ground.database() as many,
        connected(many) as beside_many,
    ):
        await beside_few.execute(IDLE, 10)
        await beside_many.execute(IDLE, SCHEDULES)
        for connection in (beside_few, beside_many):
            await connection.execute("vacuum (analyze) pushq.schedules")
        measure = Measure("steps", f"{stage} beside {SCHEDULES:,}", "ms", limit="beside 10")
        async for _ in run.rounds(stage):
            run.add(measure, await _look(beside_many), await _look(beside_few))


async def _look(connection: Connection) -> float:
    """Milliseconds of a look."""
    text = statement("schedules_outlook")
    began = time.perf_counter()
    for _ in range(LOOKS):
        await connection.fetch(text, None)
    return (time.perf_counter() - began) / LOOKS * 1000
