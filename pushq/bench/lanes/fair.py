"""What fairness between a thousand tenants costs, and how soon a tenant's single job starts beside another's flood."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pushq.bench.backend import Backend, claim_and_finish
from pushq.bench.bare import CLAIMANT, Rows, claim_arguments, finish_arguments
from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_more_than
from pushq.bench.lanes.extra import Way, measure_extra, pool_in_database
from pushq.bench.pick_up import PickUps, measured
from pushq.bench.run import Run
from pushq.bench.supervisors import supervising
from pushq.bench.waiting import wait_until
from pushq.database.statements import statement
from pushq.job import Job
from pushq.pool.shares import Shares
from pushq.pool.store import Terms

FAIR = "select pushq.be_fair('default', 'tenant')"
INSERT = """
insert into pushq.jobs (task, tenant_id) select 'bench.noop', 'tenant' || i % 1000 from generate_series(1, $1) as i
"""
MOST_US = 56
MOST_MS = 3

RATE = 50
"""Jobs of the lonely tenant inserted a second."""
SECONDS, SECONDS_LONG = 1.2, 3.0
WORKERS, JOB_SECONDS = 20, 0.05
"""Workers, all busy with jobs of the other tenant, and how long these take."""
SECONDS_TO_END = 10.0
FLOOD = """
insert into pushq.jobs (task, payload, tenant_id)
select 'bench.sleep', jsonb_build_object('seconds', $2::float8), 'flood' from generate_series(1, $1)
"""
LONELY = "insert into pushq.jobs (task, payload, tenant_id) values ('bench.stamp', '{}', 'lonely') returning id"
URGENT = """
insert into pushq.jobs (task, payload, tenant_id, priority) values ('bench.stamp', '{}', 'lonely', -10) returning id
"""


async def measure_fair(run: Run) -> None:
    stage = "lanes, fair, 1,000 tenants"
    if run.restore(stage):
        return
    async with AsyncExitStack() as stack:
        plain, fair = [await stack.enter_async_context(pool_in_database(run, rule)) for rule in (None, FAIR)]
        ways = {
            "plain": Way(*plain, _claim_and_finish),
            "fair, 1,000 tenants, claim + finish": Way(*fair, claim_in_turn_and_finish),
        }
        await measure_extra(run, stage, ways, INSERT, "unfair", MOST_US)


async def _claim_and_finish(pool: Backend, batch: int, batches: int) -> float:
    return await claim_and_finish(pool, statement("claim"), statement("finish"), finish_arguments, batch, batches)


async def claim_in_turn_and_finish(pool: Backend, batch: int, batches: int) -> float:
    """Goes round the tenants, as a pool does."""
    shares = Shares(CLAIMANT.queues)

    def claiming(limit: int) -> tuple[object, ...]:
        return claim_arguments(limit, Terms(most_holding=limit, after=shares.after, taken=shares.taken))

    def noting(rows: Rows) -> tuple[object, ...]:
        shares.note([Job(*row) for row in rows])
        return finish_arguments(rows)

    return await claim_and_finish(pool, statement("claim"), statement("finish"), noting, batch, batches, claiming)


# A lonely tenant ------------------------------------------------------------------------------------------------------


async def measure_lonely(run: Run) -> None:
    """Measures pick-ups in a fair queue and in an unfair one: alone, and beside a flood of another tenant.

    In the unfair queue beside a flood, the lonely jobs are urgent. Else each would wait for the whole flood.
    """
    stage = "lanes, a lonely tenant"
    if run.restore(stage):
        return
    seconds = run.scope.seconds(SECONDS_LONG if run.scope.is_long else SECONDS)
    async with _side(run, FAIR, LONELY) as fair, _side(run, None, URGENT) as unfair:
        async for one in run.rounds(stage):
            in_turn = (fair, unfair) if one % 2 else (unfair, fair)
            alone = {side.insert: await measured(side.connection, RATE, seconds, LONELY) for side in in_turn}
            beside = {side.insert: await side.beside_flood(seconds) for side in in_turn}
            _note(run, "alone", "unfair", alone)
            _note(run, "beside another's flood", "urgent, unfair", beside)


def _note(run: Run, what: str, limit: str, seen: dict[str, PickUps]) -> None:
    for name, share, target in (("p50", 0.5, no_more_than(MOST_MS)), ("p95", 0.95, None)):
        fair, unfair = seen[LONELY].percentile(share), seen[URGENT].percentile(share)
        run.add(
            Measure("lanes", f"a lonely tenant's pick-up, {what}, {name}: extra", "ms", limit, target),
            fair - unfair,
            unfair,
        )


@dataclass(frozen=True, slots=True)
class _Side:
    """insert: inserts a job of the lonely tenant beside a flood."""

    connection: Connection
    insert: str

    async def beside_flood(self, seconds: float) -> PickUps:
        await self.connection.execute(FLOOD, round((seconds + 2) * WORKERS / JOB_SECONDS), JOB_SECONDS)
        await measured(self.connection, RATE, 0.2, self.insert)  # until all workers are busy
        pick_ups = await measured(self.connection, RATE, seconds, self.insert)
        await self.connection.execute("delete from pushq.jobs_unfinished where status = 'queued'")

        async def have_all_ended() -> bool:
            return not await self.connection.fetchval("select exists (select from pushq.jobs_unfinished)")

        await wait_until(have_all_ended, "The other tenant's jobs did not end", within=SECONDS_TO_END)
        return pick_ups


@asynccontextmanager
async def _side(run: Run, rule: str | None, insert: str) -> AsyncIterator[_Side]:
    async with run.ground.database() as url, connected(url) as connection:
        if rule:
            await connection.execute(rule)
        with supervising(url, f"--concurrency={WORKERS}", "--poll-interval=0") as (supervisor,):
            await supervisor.wait_ready()
            await measured(connection, RATE, 0.4, LONELY)
            yield _Side(connection, insert)
