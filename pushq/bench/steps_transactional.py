"""How many transactional jobs a pool ends, beside bare transactions that do the same, at the same concurrency.

The limit is a loop on each of as many bare asyncpg connections: begin, the handler's statement, finish.sql, commit.
Its jobs are claimed beforehand, and its connections have the settings of a pool's session for outcomes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import anyio

from pushq.bench.bare import claim_arguments, finish_arguments, register
from pushq.bench.connection import Connection, connected, session_settings
from pushq.bench.figures import Measure, at_least, number
from pushq.bench.ground import settle
from pushq.bench.run import Run
from pushq.bench.supervisors import RunningSupervisor, supervising
from pushq.bench.waiting import wait_until
from pushq.database.statements import statement
from pushq.errors import PushqError

JOBS = 4_000
CONCURRENCY = 10
SECONDS_TO_DRAIN = 120.0
KINDS = {"bench.begin": "that only begin", "bench.effect": "that write a row"}
"""Tasks of bench/tasks.py, and what their handlers do in the transaction."""
TABLE = "create table public.effects (job uuid not null)"
EFFECT = "insert into public.effects (job) values ($1)"

INSERT = "insert into pushq.jobs (task) select $1 from generate_series(1, $2)"
JUDGE = """
select
    count(*) as finished, extract(epoch from max(finished_at) - min(started_at))::float8 as seconds,
    (select count(*) from public.effects where job > $1) as effects
from pushq.jobs
where finished_on < 'infinity' and id > $1 and status = 'succeeded'
"""


async def measure_transactional(run: Run) -> None:
    """Drains jobs by a supervisor, and by bare transactions, one after the other."""
    count = run.scope.jobs(JOBS)
    stage = f"steps, {number(count)} transactional jobs"
    if run.restore(stage):
        return
    flags = f"--concurrency={CONCURRENCY}", "--poll-interval=0"
    async with _side(run) as (url, connection), _side(run) as (bare_url, bare_connection):
        await register(bare_url)
        with supervising(url, *flags) as (supervisor,):
            await supervisor.wait_ready()
            async for one in run.rounds(stage):
                for task, what in KINDS.items():
                    rates = dict[str, float]()
                    for side in ("ours", "bare") if one % 2 else ("bare", "ours"):
                        if side == "ours":
                            rates[side] = await _drain(connection, supervisor, task, count)
                        else:
                            rates[side] = await _drain_bare(bare_connection, bare_url, task, count)
                    of = f"transactional jobs {what}, {CONCURRENCY} workers"
                    measure = Measure("steps", of, "jobs/s", "bare transactions", at_least(0.8))
                    run.add(measure, rates["ours"], rates["bare"])


@asynccontextmanager
async def _side(run: Run) -> AsyncIterator[tuple[str, Connection]]:
    async with run.ground.database() as url, connected(url) as connection:
        await connection.execute(TABLE)
        yield url, connection


async def _drain(connection: Connection, supervisor: RunningSupervisor, task: str, count: int) -> float:
    """Jobs a second of a supervisor, by the instants in the rows."""
    first = await _load(connection, task, count)
    await connection.execute("select pushq.resume('default')")

    async def none_are_left() -> bool:
        supervisor.check_alive()
        return not await connection.fetchval("select exists (select from pushq.jobs_unfinished)")

    await wait_until(none_are_left, "The jobs were not drained", within=SECONDS_TO_DRAIN, every=0.05)
    return count / await _judged(connection, first, task, count)


async def _drain_bare(connection: Connection, url: str, task: str, count: int) -> float:
    """Jobs a second of bare transactions, by the clock."""
    first = await _load(connection, task, count)
    await connection.execute("select pushq.resume('default')")
    async with AsyncExitStack() as stack:
        settings = session_settings(is_durable=True)
        bare = [await stack.enter_async_context(connected(url, settings)) for _ in range(CONCURRENCY)]
        rows = list[Any]()
        while len(rows) < count:
            rows += await bare[0].fetch(statement("claim"), *claim_arguments(count - len(rows)))
        left = iter(rows)
        for one in bare:
            await _end_one(one, task, next(left))  # prepares the statements
        began = time.monotonic()
        async with anyio.create_task_group() as group:
            for one in bare:
                group.start_soon(_end_jobs, one, task, left)
        seconds = time.monotonic() - began
    await _judged(connection, first, task, count)
    return (count - CONCURRENCY) / seconds


async def _end_jobs(connection: Connection, task: str, rows: Iterator[Any]) -> None:
    for row in rows:
        await _end_one(connection, task, row)


async def _end_one(connection: Connection, task: str, row: Any) -> None:
    async with connection.transaction():
        if task == "bench.effect":
            await connection.execute(EFFECT, row["id"])
        await connection.fetch(statement("finish"), *finish_arguments([row]))


async def _load(connection: Connection, task: str, count: int) -> UUID:
    """Inserts jobs into a queue that is paused. Returns an id before the first."""
    first: UUID = await connection.fetchval("select pushq.uuidv7()")
    await connection.execute("select pushq.pause('default')")
    await connection.execute(INSERT, task, count)
    await settle(connection)
    return first


async def _judged(connection: Connection, first: UUID, task: str, count: int) -> float:
    """Seconds from the first start to the last end. Raises PushqError unless all jobs have run, and written once."""
    row = await connection.fetchrow(JUDGE, first)
    assert row is not None
    if row["finished"] != count or row["effects"] != (count if task == "bench.effect" else 0):
        raise PushqError(f"Of {count} jobs {row['finished']} succeeded, and wrote {row['effects']} rows.")
    return float(row["seconds"])
