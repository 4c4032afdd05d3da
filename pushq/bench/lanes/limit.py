"""What one limit for a queue costs each job if the limit is never reached."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from uuid import uuid4

from pushq.bench.backend import INSERT, Backend, claim_and_finish
from pushq.bench.bare import CLAIMANT, Rows, claim_arguments, finish_arguments
from pushq.bench.connection import connected
from pushq.bench.drain import drain
from pushq.bench.figures import Measure, no_more_than, number
from pushq.bench.lanes.extra import Way, measure_extra, pool_in_database
from pushq.bench.run import Run
from pushq.bench.supervisors import TUNED
from pushq.database.statements import statement
from pushq.errors import PushqError
from pushq.pool.store import Terms

LIMIT = "select pushq.limit('queue:default', 1000000)"
WITHOUT = "without a limit"
MOST_US = 13
DRAINED = 20_000


async def measure_limit(run: Run) -> None:
    """Measures claim and finish, and the finish alone that starts the next jobs in the places of those that end."""
    stage = "lanes, a limit"
    if run.restore(stage):
        return
    async with AsyncExitStack() as stack:
        plain, limited, followed = [
            await stack.enter_async_context(pool_in_database(run, rule)) for rule in (None, LIMIT, LIMIT)
        ]
        ways = {
            "plain": Way(*plain, _claim_and_finish),
            "a queue's limit, claim + finish": Way(*limited, claim_in_lanes_and_finish),
            "a queue's limit, finish and follow": Way(*followed, finish_and_follow),
        }
        await measure_extra(run, stage, ways, INSERT, WITHOUT, MOST_US)


async def _claim_and_finish(pool: Backend, batch: int, batches: int) -> float:
    return await claim_and_finish(pool, statement("claim"), statement("finish"), finish_arguments, batch, batches)


async def claim_in_lanes_and_finish(pool: Backend, batch: int, batches: int) -> float:
    return await claim_and_finish(
        pool, statement("claim"), statement("finish"), finish_arguments, batch, batches, _claiming_in_lanes
    )


def _claiming_in_lanes(limit: int) -> tuple[object, ...]:
    return claim_arguments(limit, Terms(most_holding=limit, lanes_first=True))


async def finish_and_follow(pool: Backend, batch: int, batches: int) -> float:
    """Each batch takes the places of the batch before, as in a pool while the turn of a lane lasts."""
    rows: Rows = await pool.connection.fetch(statement("claim"), *_claiming_in_lanes(batch))
    before = pool.spent()
    for _ in range(batches):
        rows = await pool.connection.fetch(statement("finish_following"), *_following(rows))
        if len(rows) != batch:
            raise PushqError(f"After {batch} jobs {len(rows)} followed.")
    spent = pool.spent() - before
    await pool.connection.fetch(statement("finish"), *finish_arguments(rows))
    return spent / (batch * batches)


def _following(rows: Rows) -> tuple[object, ...]:
    """The arguments of finish_following.sql, without events."""
    rows = sorted(rows, key=lambda row: row["id"].bytes)
    return (
        *finish_arguments(rows),
        [],
        [],
        [],
        CLAIMANT.supervisor,
        [row["queue"] for row in rows],
        [json.loads(row["extras"])["lane"] for row in rows],
        [False] * len(rows),
        sorted(CLAIMANT.tasks),
        CLAIMANT.pool,
        uuid4(),
    )


async def measure_limited_drain(run: Run) -> None:
    """Drains by a real supervisor, in turn with a queue without a limit."""
    count = run.scope.jobs(DRAINED)
    stage = f"lanes, a limit, drain of {number(count)}"
    if run.restore(stage):
        return
    measure = Measure("lanes", f"{stage.partition(', ')[2]}, tuned: extra a job", "us", WITHOUT, no_more_than(MOST_US))
    async for one in run.rounds(stage):
        in_turn = (True, False) if one % 2 else (False, True)
        took = {is_limited: await _drain(run, count, is_limited=is_limited) for is_limited in in_turn}
        run.add(measure, took[True] - took[False], took[False])


async def _drain(run: Run, count: int, *, is_limited: bool) -> float:
    """Microseconds a job, by the instants in the rows."""
    async with run.ground.database() as url:
        if is_limited:
            async with connected(url) as connection:
                await connection.execute(LIMIT)
        return 1e6 / await drain(url, count, *TUNED, may_give_back=True)
