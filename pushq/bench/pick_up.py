"""pick-up: how soon an idle system runs the first line of a handler, after the commit of the INSERT."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import anyio

from pushq.bench.bare import register
from pushq.bench.bare_pool import CHANNEL, listening
from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, Target, at_most, percentile
from pushq.bench.run import Run
from pushq.bench.supervisors import supervising
from pushq.bench.waiting import wait_until

RATES = (50, 200)
"""Jobs inserted a second."""
SECONDS = 1.2
SECONDS_LONG = 20.0
SECONDS_TO_FINISH = 60.0
LIMIT = "raw NOTIFY and one claim"

INSERT = "insert into pushq.jobs (task, payload) values ('bench.stamp', '{}') returning id"
INSERT_AND_NOTIFY = f"""
with job as (insert into pushq.jobs (task, payload) values ('bench.stamp', '{{}}') returning id)
select id, pg_notify('{CHANNEL}', '') from job
"""  # noqa: S608 - our own channel


@dataclass(frozen=True, slots=True)
class PickUps:
    """Milliseconds to the first line of the handler: from the commit's reply, and from the start of the INSERT."""

    after_commit: Sequence[float]
    after_begin: Sequence[float]

    def percentile(self, share: float) -> float:
        return percentile(self.after_commit, share)


SHARES: dict[str, tuple[float, Target | None]] = {
    "p50": (0.5, at_most(1.5)),
    "p95": (0.95, None),
    "p99": (0.99, at_most(3)),
    "max": (1.0, None),
}


async def measure_pick_up(run: Run) -> None:
    """Measures pushq and the limit in turn within each round, each in its own database, without polling."""
    if run.restore("pick-up"):
        return
    seconds = run.scope.seconds(SECONDS_LONG if run.scope.is_long else SECONDS)
    async with run.ground.database() as url, run.ground.database() as bare_url:
        await register(bare_url)
        with supervising(url, "--poll-interval=0") as (supervisor,), listening(bare_url):
            await supervisor.wait_ready()
            async with connected(url) as ours, connected(bare_url) as bare:
                await _warm_up(ours, bare)
                async for one in run.rounds("pick-up"):
                    for rate in RATES:
                        _note(run, rate, *await _in_turn(ours, bare, rate, seconds, limit_first=one % 2 == 0))


async def _in_turn(
    ours: Connection, bare: Connection, rate: int, seconds: float, *, limit_first: bool
) -> tuple[PickUps, PickUps]:
    """The pick-ups of pushq, and of the limit."""
    if limit_first:
        limits = await measured(bare, rate, seconds, INSERT_AND_NOTIFY)
        return await measured(ours, rate, seconds), limits
    return await measured(ours, rate, seconds), await measured(bare, rate, seconds, INSERT_AND_NOTIFY)


def _note(run: Run, rate: int, pick_ups: PickUps, limits: PickUps) -> None:
    for name, (share, target) in SHARES.items():
        measure = Measure("pick-up", f"{rate}/s, commit to handler, {name}", "ms", LIMIT, target)
        run.add(measure, pick_ups.percentile(share), limits.percentile(share))
    whole = Measure("pick-up", f"{rate}/s, INSERT to handler, p50", "ms", LIMIT)
    run.add(whole, percentile(pick_ups.after_begin, 0.5), percentile(limits.after_begin, 0.5))


async def _warm_up(*connections: Connection) -> None:
    """Prepares statements, and fills caches."""
    statements = (INSERT, INSERT_AND_NOTIFY)
    for connection, insert in zip(connections, statements, strict=True):
        await measured(connection, 50, 0.4, insert)


async def measured(connection: Connection, rate: float, seconds: float, insert: str = INSERT) -> PickUps:
    """Inserts single jobs at a fixed rate, and waits until all have run. rate: jobs a second."""
    inserted = await insert_steadily(connection, rate, seconds, insert)
    began_at = await stamps(connection, list(inserted))
    return PickUps(
        [1000 * (began_at[job] - committed) for job, (_, committed) in inserted.items()],
        [1000 * (began_at[job] - begun) for job, (begun, _) in inserted.items()],
    )


async def insert_steadily(
    connection: Connection, rate: float, seconds: float, insert: str = INSERT
) -> dict[UUID, tuple[float, float]]:
    """Inserts single jobs.

    Returns ids with two instants of time.monotonic(): of the INSERT's start, and of its reply.
    """
    inserted: dict[UUID, tuple[float, float]] = {}
    start = time.monotonic()
    for number in range(max(1, round(rate * seconds))):
        await anyio.sleep(max(0.0, start + number / rate - time.monotonic()))
        begun = time.monotonic()
        job = await connection.fetchval(insert)
        inserted[job] = (begun, time.monotonic())
    return inserted


async def stamps(connection: Connection, jobs: Sequence[UUID]) -> dict[UUID, float]:
    """When each job's handler began, by time.monotonic(). Waits until all jobs have run; raises PushqError if not."""
    stamped: dict[UUID, float] = {}

    async def all_are_stamped() -> bool:
        rows = await connection.fetch(
            "select id, result::float8 as began_at from pushq.jobs "
            "where id = any($1::uuid[]) and finished_on < 'infinity' and status = 'succeeded'",
            jobs,
        )
        stamped.update({row["id"]: row["began_at"] for row in rows})
        return len(stamped) == len(jobs)

    await wait_until(all_are_stamped, f"Not all of {len(jobs)} jobs were run", within=SECONDS_TO_FINISH, every=0.05)
    return stamped
