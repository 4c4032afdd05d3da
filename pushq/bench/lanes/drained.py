"""Jobs that need one of a hundred names, drained by supervisors; the limit is the same jobs without needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, at_least, no_more_than, number
from pushq.bench.ground import settle
from pushq.bench.run import Run
from pushq.bench.supervisors import RunningSupervisor, supervising
from pushq.bench.waiting import wait_until
from pushq.errors import PushqError

JOBS = 10_000
NAMES = 100
"""Names of capacity 1."""
SUPERVISORS, CONCURRENCY = 4, 25
SECONDS_TO_DRAIN = 120.0

INSERT = """
insert into pushq.jobs (task, payload, needs)
select $1, $2::jsonb, case when $4::int > 0 then jsonb_build_object('bench' || i % $4, 1) end
from generate_series(1, $3) as i
"""
HELD = "select coalesce(max(units), 0) from pushq.held()"
JUDGE = """
with run as (
    select lane, attempt, started_at, finished_at
    from pushq.jobs
    where finished_on < 'infinity' and id > $1 and status = 'succeeded'
),
running as (
    select sum(change.units) over (partition by run.lane order by change.at, change.units) as units
    from run
    cross join lateral (values (run.started_at, 1), (run.finished_at, -1)) as change (at, units)
    where run.lane is not null
)
select
    count(*) as finished, extract(epoch from max(finished_at) - min(started_at))::float8 as seconds,
    (select coalesce(max(units), 0) from running) as at_once
from run
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """aim: the rate of jobs with needs, as a share of that of jobs without."""

    name: str
    task: str
    payload: Mapping[str, float]
    aim: float


KINDS = (
    Kind("that do nothing", "bench.noop", {}, 0.6),
    Kind("of 10 ms", "bench.sleep", {"seconds": 0.01}, 0.9),
)


@dataclass(frozen=True, slots=True)
class Drained:
    """most: units of any name that were ever held at once."""

    rate: float
    most: int


async def measure_drained(run: Run) -> None:
    """Drains jobs with needs and jobs without, one after the other, by the same supervisors."""
    count = run.scope.jobs(JOBS)
    stage = f"lanes, {number(count)} jobs over {NAMES} names"
    if run.restore(stage):
        return
    flags = f"--concurrency={CONCURRENCY}", "--poll-interval=0"
    async with run.ground.database() as url, connected(url) as connection:
        with supervising(url, *flags, supervisors=SUPERVISORS) as running:
            for supervisor in running:
                await supervisor.wait_ready()
            async for one in run.rounds(stage):
                for kind in KINDS:
                    in_turn = (NAMES, 0) if one % 2 else (0, NAMES)
                    drained = {names: await _drain(connection, running, kind, count, names) for names in in_turn}
                    what = f"{number(count)} jobs {kind.name} over {NAMES} names, {SUPERVISORS} x {CONCURRENCY} workers"
                    rate = Measure("lanes", what, "jobs/s", "without needs", at_least(kind.aim))
                    run.add(rate, drained[NAMES].rate, drained[0].rate)
                    over = Measure("lanes", f"{what}: over capacity", "units", target=no_more_than(0))
                    run.add(over, drained[NAMES].most - 1)


async def _drain(
    connection: Connection, running: Sequence[RunningSupervisor], kind: Kind, count: int, names: int
) -> Drained:
    """names: how many names the jobs need, each job one of them. 0: the jobs need nothing."""
    first = await connection.fetchval("select pushq.uuidv7()")
    await connection.execute("select pushq.pause('default')")
    await connection.execute(INSERT, kind.task, json.dumps(kind.payload), count, names)
    await settle(connection)
    await connection.execute("select pushq.resume('default')")
    held = await _wait_drained(connection, running)
    return await _judged(connection, first, count, held)


async def _wait_drained(connection: Connection, running: Sequence[RunningSupervisor]) -> int:
    """Returns the most units of a name that were seen held at a look."""
    most = 0

    async def none_are_left() -> bool:
        nonlocal most
        for supervisor in running:
            supervisor.check_alive()
        most = max(most, await connection.fetchval(HELD))
        return not await connection.fetchval("select exists (select from pushq.jobs_unfinished)")

    await wait_until(none_are_left, "The jobs were not drained", within=SECONDS_TO_DRAIN, every=0.05)
    return most


async def _judged(connection: Connection, first: UUID, count: int, held: int) -> Drained:
    """Judges jobs with ids after `first` by their rows. Raises PushqError unless all have succeeded."""
    row = await connection.fetchrow(JUDGE, first)
    assert row is not None
    if row["finished"] != count:
        raise PushqError(f"Of {count} jobs {row['finished']} succeeded.")
    return Drained(count / row["seconds"], max(held, row["at_once"]))
