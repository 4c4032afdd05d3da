"""How soon somebody who waits for a job is told, and what the telling costs in throughput."""

from __future__ import annotations

import time

from pushq.bench.bare import claim_arguments, finish_arguments, register
from pushq.bench.connection import Connection, connected, session_settings
from pushq.bench.drain import drain, load
from pushq.bench.figures import Measure, at_least, no_more_than, number, percentile
from pushq.bench.pick_up import insert_steadily
from pushq.bench.run import Run
from pushq.bench.share.ears import BARE, CHANNEL, Heard, ahead, hearing, notify, wait_heard
from pushq.bench.supervisors import supervising
from pushq.database.statements import statement

RATE = 50
"""Jobs inserted a second."""
SECONDS, SECONDS_LONG = 1.5, 6.0
SINGLY, SINGLY_LONG = 100, 500
"""Jobs that are finished and told by bare statements."""
PROCESSES = 4
JOBS, JOBS_LONG = 10_000, 100_000
ONE_IN = 10
"""Of so many jobs, one is waited for."""
AS_FAST = 0.75

INSERT = f"insert into pushq.jobs (task, waiters) values ('bench.noop', array['{CHANNEL}']) returning id"  # noqa: S608 - our own channel


async def measure_told(run: Run) -> None:
    """Measures a real pool, the two statements that a pool sends, and a bare notification, in each round."""
    stage = "share, told"
    if run.restore(stage):
        return
    seconds = run.scope.seconds(SECONDS_LONG if run.scope.is_long else SECONDS)
    count = run.scope.jobs(SINGLY_LONG if run.scope.is_long else SINGLY)
    async with run.ground.database() as url, run.ground.database() as bare_url:
        await register(bare_url)
        with supervising(url, "--poll-interval=0") as (supervisor,):
            await supervisor.wait_ready()
            async for _ in run.rounds(stage):
                ours = await _told_by_pool(url, seconds)
                told, bare = await _told_by_statements(bare_url, count)
                _note(run, "finished_at to arrival", ours, bare, most=3)
                _note(run, "the finish's reply to arrival", told, bare, most=1)


def _note(run: Run, what: str, took: list[float], bare: list[float], *, most: float) -> None:
    for name, share, target in (("p50", 0.5, no_more_than(most)), ("p99", 0.99, None)):
        measure = Measure("share", f"told, {what}, {name}", "ms", BARE, target)
        run.add(measure, percentile(took, share), percentile(bare, share))


async def _told_by_pool(url: str, seconds: float) -> list[float]:
    """Milliseconds from the end of each job, by the row, to the arrival."""
    async with connected(url) as connection, hearing(url) as heard:
        jobs = await insert_steadily(connection, RATE, seconds, INSERT)
        await wait_heard(heard, len(jobs))
        arrivals = {said.partition(" ")[0]: arrived for said, arrived in heard.items()}
        since_1970 = await ahead(connection)
        rows = await connection.fetch(
            "select id, extract(epoch from finished_at)::float8 as ended from pushq.jobs "
            "where id = any($1::uuid[]) and finished_on < 'infinity'",
            list(jobs),
        )
    return [1000 * (arrivals[str(row["id"])] + since_1970 - row["ended"]) for row in rows]


async def _told_by_statements(url: str, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the reply to finish.sql to the arrival; and of as many bare notifications, in turn."""
    told, bare = list[float](), list[float]()
    async with (
        connected(url, session_settings(is_durable=False)) as claims,
        connected(url, session_settings(is_durable=True)) as outcomes,
        hearing(url) as heard,
    ):
        await load(claims, count, channels=[CHANNEL])
        for _ in range(count):
            told.append(await _finish_and_tell(claims, outcomes, heard))
            bare.append(await notify(claims, heard))
    return told, bare


async def _finish_and_tell(claims: Connection, outcomes: Connection, heard: Heard) -> float:
    heard.clear()
    rows = await claims.fetch(statement("claim"), *claim_arguments(1))
    row = await outcomes.fetchrow(statement("finish"), *finish_arguments(rows))
    assert row is not None
    replied = time.monotonic()
    await claims.fetch(statement("tell"), row["told"])
    await wait_heard(heard, 1)
    return 1000 * (heard.pop(f"{rows[0]['id']} succeeded") - replied)


# Throughput ---------------------------------------------------------------------------------------------------------


async def measure_waited_for(run: Run) -> None:
    """Drains by several pools. The limit has no waiters, and the same client listens."""
    count = run.scope.jobs(JOBS_LONG if run.scope.is_long else JOBS)
    name = f"drain of {number(count)}, {PROCESSES} pools, {100 // ONE_IN} % waited for"
    measure = Measure("share", name, "jobs/s", "with none", at_least(AS_FAST))
    async for one in run.rounds(f"share, {name}"):
        if one % 2:
            waited, alone = await _drained(run, count, waits=True), await _drained(run, count, waits=False)
        else:
            alone, waited = await _drained(run, count, waits=False), await _drained(run, count, waits=True)
        run.add(measure, waited, alone)


async def _drained(run: Run, count: int, *, waits: bool) -> float:
    """Jobs a second. Raises PushqError if somebody waits and is not told."""
    channels = [CHANNEL, *[None] * (ONE_IN - 1)] if waits else [None]
    async with run.ground.database() as url, hearing(url) as heard:
        rate = await drain(
            url,
            count,
            f"--processes={PROCESSES}",
            channels=channels,
            may_give_back=True,  # more pools than cores
        )
        await wait_heard(heard, count // ONE_IN if waits else 0)
    return rate
