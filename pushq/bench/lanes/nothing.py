"""How long a claim takes that looks at a thousand lanes, and finds every name held."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pushq.bench.bare import CLAIMANT, claim_arguments, register
from pushq.bench.connection import Connection, connected, session_settings
from pushq.bench.figures import Measure, no_more_than, percentile
from pushq.bench.run import Run
from pushq.database.statements import statement
from pushq.errors import PushqError
from pushq.pool.store import Terms

LANES = 1_000
WAITING = 5
"""Queued jobs of each lane."""
ROOM = 100
CLAIMS, CLAIMS_LONG = 8, 20
"""Claims a round."""
MOST_MS = 15

INSERT = """
insert into pushq.jobs (task, needs)
select 'bench.noop', jsonb_build_object('bench' || i % $2, 1) from generate_series(1, $1) as i
"""


async def measure_nothing(run: Run) -> None:
    """Measures the claim, and the question when a job will be due, which a pool asks next."""
    lanes = run.scope.jobs(LANES)
    stage = f"lanes, nothing free of {lanes:,}"
    if run.restore(stage):
        return
    async with _pool(run) as full, _pool(run) as empty:
        await _hold_all(full, lanes)
        count = CLAIMS_LONG if run.scope.is_long else CLAIMS
        async for one in run.rounds(stage):
            in_turn = (full, empty) if one % 2 else (empty, full)
            claims = {pool: await _claims(pool, count) for pool in in_turn}
            looks = {pool: await _looks(pool, count) for pool in in_turn}
            what = f"a claim that finds nothing among {lanes:,} lanes, p50"
            run.add(Measure("lanes", what, "ms", "with none", no_more_than(MOST_MS)), claims[full], claims[empty])
            what = f"when is a job due, among {lanes:,} lanes, p50"
            run.add(Measure("lanes", what, "ms", "with none"), looks[full], looks[empty])


@asynccontextmanager
async def _pool(run: Run) -> AsyncIterator[Connection]:
    async with (
        run.ground.database() as url,
        connected(url, session_settings(is_durable=False)) as pool,
    ):
        await register(url)
        yield pool


async def _claim(pool: Connection) -> int:
    terms = Terms(most_holding=ROOM, lanes_first=True)
    return len(await pool.fetch(statement("claim"), *claim_arguments(ROOM, terms)))


async def _hold_all(pool: Connection, lanes: int) -> None:
    """A job of each lane runs, and more wait."""
    await pool.execute(INSERT, lanes * (WAITING + 1), lanes)
    await pool.execute("vacuum (analyze) pushq.jobs_unfinished")
    held = 0
    while taken := await _claim(pool):
        held += taken
    if held != lanes:
        raise PushqError(f"Of {lanes} names {held} are held.")
    await pool.execute("vacuum (analyze) pushq.jobs_unfinished")


async def _claims(pool: Connection, count: int) -> float:
    """The median, in milliseconds."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        taken = await _claim(pool)
        took.append(1000 * (time.perf_counter() - began))
        if taken:
            raise PushqError(f"A claim took {taken} jobs, though all names are held.")
    return percentile(took, 0.5)


async def _looks(pool: Connection, count: int) -> float:
    """The median, in milliseconds."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await pool.fetch(
            statement("next_due"), list(CLAIMANT.queues), sorted(CLAIMANT.tasks), CLAIMANT.supervisor, None
        )
        took.append(1000 * (time.perf_counter() - began))
    return percentile(took, 0.5)
