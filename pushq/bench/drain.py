"""drain: how fast one supervisor runs jobs that do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pushq.bench.bare import drain_minimal, drain_with_our_statements, drain_with_pgbench, load_minimal
from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, at_least, number
from pushq.bench.ground import Ground, settle
from pushq.bench.run import Run
from pushq.bench.supervisors import TUNED, RunningSupervisor, supervising
from pushq.bench.waiting import wait_until
from pushq.errors import PushqError

SECONDS_TO_DRAIN = 600.0


async def measure_drain(run: Run) -> None:
    sizes = (20_000, 100_000, 1_000_000) if run.scope.is_long else (20_000,)
    for count in map(run.scope.jobs, sizes):
        await _measure(run, count)


async def _measure(run: Run, count: int) -> None:
    """Each round measures pushq and its limits one after the other, each on a fresh database."""
    of = f"{number(count)} jobs"
    tuned = Measure("drain", f"{of}, tuned", "jobs/s", "its statements, bare asyncpg", at_least(0.85))
    default = Measure("drain", f"{of}, default settings", "jobs/s", "tuned", at_least(0.8))
    statements = Measure("drain", f"{of}, its statements, bare", "jobs/s", "minimal table, bare", at_least(0.6))
    whole = Measure("drain", f"{of}, tuned, of the minimum", "jobs/s", "minimal table, bare", at_least(0.5))
    driver = Measure("drain", f"{of}, its statements, bare asyncpg", "jobs/s", "in pgbench")
    async for _ in run.rounds(f"drain {number(count)}"):
        with_pgbench = await drained_by_pgbench(run.ground, count)
        bare = await drained_bare(run.ground, count)
        ours = await drained(run.ground, count, *TUNED)
        minimum = await drained_minimal(run.ground, count)
        plain = await drained(run.ground, count)
        run.add(tuned, ours, bare)
        run.add(default, plain, ours)
        run.add(statements, bare, minimum)
        run.add(whole, ours, minimum)
        run.add(driver, bare, with_pgbench)


# pushq --------------------------------------------------------------------------------------------------------------


async def drained(ground: Ground, count: int, *flags: str) -> float:
    """Jobs a second of one supervisor on a fresh database."""
    async with ground.database() as url:
        return await drain(url, count, *flags)


async def drain(
    url: str,
    count: int,
    *flags: str,
    supervisors: int = 1,
    queues: Sequence[str] = ("default",),
    channels: Sequence[str | None] = (None,),
    may_give_back: bool = False,
) -> float:
    """Jobs a second, from the first claim to the last finish, by the instants in the table.

    may_give_back: whether a job may be claimed again, which a pool has given back before a worker began the job.

    Jobs are loaded before the supervisors start, and paused until every supervisor is ready, so that the start does not
    count. Raises PushqError when a job was lost or run twice.
    """
    async with connected(url) as connection:
        first, last = await load(connection, count, queues, channels)
        await settle(connection)
        await connection.execute("select pushq.pause(queue) from unnest($1::text[]) as queue", queues)
        served = [f"--queue={queue}" for queue in queues]
        with supervising(url, *served, *flags, supervisors=supervisors) as running:
            for supervisor in running:
                await supervisor.wait_ready()
            await connection.execute("select pushq.resume(queue) from unnest($1::text[]) as queue", queues)
            await _wait_drained(connection, last, running)
        return await rate_since(connection, first, count, may_give_back=may_give_back)


async def load(
    connection: Connection,
    count: int,
    queues: Sequence[str] = ("default",),
    channels: Sequence[str | None] = (None,),
) -> tuple[UUID, UUID]:
    """Inserts jobs that do nothing, evenly over the queues, and waited for on the channels. None: by nobody.

    Returns an id before the first job, and the last id.
    """
    first = await connection.fetchval("select pushq.uuidv7()")
    await connection.execute(
        "insert into pushq.jobs (task, queue, waiters) "
        "select 'bench.noop', ($2::text[])[1 + number % cardinality($2::text[])], "
        "nullif(array[($3::text[])[1 + number % cardinality($3::text[])]], array[null::text]) "
        "from generate_series(1, $1) as number",
        count,
        queues,
        channels,
        timeout=SECONDS_TO_DRAIN,
    )
    return first, await connection.fetchval("select id from pushq.jobs_unfinished order by id desc limit 1")


async def _wait_drained(connection: Connection, last: UUID, running: Sequence[RunningSupervisor]) -> None:
    """Waits until the last job is gone, by a look at one id. To count all jobs would slow the drain."""

    async def all_are_finished() -> bool:
        for supervisor in running:
            supervisor.check_alive()
        left = "select true from pushq.jobs_unfinished where"
        return not (
            await connection.fetchval(f"{left} id = $1", last)
            or await connection.fetchval(f"{left} task = 'bench.noop' limit 1")
        )

    await wait_until(all_are_finished, "The jobs were not drained", within=SECONDS_TO_DRAIN)


async def rate_since(connection: Connection, first: UUID, count: int, *, may_give_back: bool = False) -> float:
    """Jobs a second of the `count` jobs with ids after `first`.

    Raises PushqError unless every job has succeeded, and in its first attempt, or later if may_give_back.
    """
    row = await connection.fetchrow(
        "select count(*) as finished, max(attempt) as attempts, "
        "extract(epoch from max(finished_at) - min(started_at))::float8 as seconds "
        "from pushq.jobs where finished_on < 'infinity' and id > $1 and task = 'bench.noop' and status = 'succeeded'",
        first,
    )
    assert row is not None
    if row["finished"] != count or (row["attempts"] > 1 and not may_give_back):
        raise PushqError(f"Of {count} jobs {row['finished']} succeeded, in up to {row['attempts']} attempts each.")
    return float(count / row["seconds"])


# The limits ---------------------------------------------------------------------------------------------------------


async def drained_bare(ground: Ground, count: int) -> float:
    """Jobs a second of pushq's statements in a bare loop."""
    async with ground.database() as url, connected(url) as connection:
        first, _ = await load(connection, count)
        await settle(connection)
        await drain_with_our_statements(url)
        return await rate_since(connection, first, count)


async def drained_by_pgbench(ground: Ground, count: int) -> float:
    """Jobs a second of pushq's statements in pgbench."""
    async with ground.database() as url, connected(url) as connection:
        first, _ = await load(connection, count)
        await settle(connection)
        await drain_with_pgbench(ground.pgbench, url, count)
        return await rate_since(connection, first, count)


async def drained_minimal(ground: Ground, count: int) -> float:
    """Jobs a second of the shortest statements over the smallest table."""
    async with ground.database() as url, connected(url) as connection:
        await load_minimal(connection, count)
        await settle(connection)
        seconds = await drain_minimal(url)
        if left := await connection.fetchval("select count(*) from minimal where status <> 'succeeded'"):
            raise PushqError(f"Of {count} rows {left} were not finished.")
        return count / seconds
