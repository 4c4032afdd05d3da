"""The limits of a drain: claim and finish in a bare asyncpg loop, overlapped on two connections.

The loop with pushq's own two statements shows the cost of pushq's Python. The loop with the shortest possible
statements on the smallest table shows the cost of the table and its promises. pgbench with pushq's statements shows the
cost of the driver.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from uuid import uuid4

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pushq.bench.connection import Connection, connected, session_settings
from pushq.bench.pgbench import Pgbench
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.pool.intake import LARGEST_CLAIM
from pushq.pool.store import Claimant, Terms
from pushq.supervisor import store as supervisor

BATCH = LARGEST_CLAIM
"""Jobs a claim."""

Rows: TypeAlias = Sequence[Any]
Claim: TypeAlias = Callable[[], Awaitable[Rows]]
Finish: TypeAlias = Callable[[Rows], Awaitable[object]]

CLAIMANT = Claimant("pushq bench", 1, ("default",), ("bench.begin", "bench.effect", "bench.noop", "bench.stamp"))
NONE_HOLDING = Terms()
REGISTER = """
with known as (
    insert into pushq.tasks (name) select name from unnest($2::text[]) as name on conflict do nothing
)
insert into pushq.queues as queue (name, served_since) select name, now() from unnest($1::text[]) as name
on conflict (name) do update set served_since = excluded.served_since where queue.served_since is null
"""


# The parameters of claim.sql and finish.sql are written in these functions, and for pgbench at the end.


def claim_arguments(limit: int, terms: Terms = NONE_HOLDING) -> tuple[object, ...]:
    its = terms.most_holding, terms.lanes_first, terms.near, terms.after, terms.taken
    return *claim_arguments_before_lanes(limit), *its


def claim_arguments_before_lanes(limit: int) -> tuple[object, ...]:
    return list(CLAIMANT.queues), list(CLAIMANT.tasks), CLAIMANT.supervisor, CLAIMANT.pool, uuid4(), limit, None, None


def finish_arguments(rows: Rows, result: str | None = None) -> tuple[object, ...]:
    rows = sorted(rows, key=lambda row: row["id"].bytes)  # as pushq.end_sorted() asks for
    began, now = [0.001] * len(rows), [0.0] * len(rows)
    results = [] if result is None else [result] * len(rows)
    return [row["id"] for row in rows], [row["token"] for row in rows], began, now, [], [], [], results


# pushq's statements -------------------------------------------------------------------------------------------------


async def drain_with_our_statements(url: str) -> None:
    """Claims and finishes until no job is left."""
    await register(url)
    async with (
        connected(url, session_settings(is_durable=False)) as claims,
        connected(url, session_settings(is_durable=True)) as outcomes,
    ):

        async def claim() -> Rows:
            return await claims.fetch(statement("claim"), *claim_arguments(BATCH))

        async def finish(rows: Rows) -> object:
            return await outcomes.fetch(statement("finish"), *finish_arguments(rows))

        await _overlap(claim, finish)


async def register(url: str) -> None:
    """Inserts a supervisor's row with a lease of an hour, which claims need, in any version of the schema."""
    session = Session(url, "pushq bench")
    await supervisor.Store(session).heartbeat(CLAIMANT.supervisor, "pushq bench", 0, 3600)
    await session.fetch(REGISTER, list(CLAIMANT.queues), list(CLAIMANT.tasks))
    await session.close()


# The smallest table -------------------------------------------------------------------------------------------------

MINIMAL_TABLE = """
create table public.minimal (
    id bigint primary key,
    payload jsonb not null default '{}',
    status text not null default 'queued'
) with (fillfactor = 50);
create index on minimal (id) where status = 'queued';
"""
MINIMAL_LOAD = "insert into public.minimal (id) select generate_series(1, $1)"
MINIMAL_CLAIM = """
update public.minimal
set status = 'running'
where id = any(array(
    select id
    from public.minimal
    where status = 'queued'
    order by id
    limit $1
    for no key update skip locked))
returning id, payload::text
"""
MINIMAL_FINISH = "update public.minimal set status = 'succeeded' where id = any($1::bigint[]) and status = 'running'"


async def load_minimal(connection: Connection, count: int) -> None:
    await connection.execute(MINIMAL_TABLE)
    await connection.execute(MINIMAL_LOAD, count)
    await connection.execute("vacuum (analyze) public.minimal")


async def drain_minimal(url: str) -> float:
    """Claims and finishes until no row is left. Returns the seconds from the first claim to the last finish."""
    async with (
        connected(url, session_settings(is_durable=False)) as claims,
        connected(url, session_settings(is_durable=True)) as outcomes,
    ):

        async def claim() -> Rows:
            return await claims.fetch(MINIMAL_CLAIM, BATCH)

        async def finish(rows: Rows) -> object:
            return await outcomes.execute(MINIMAL_FINISH, [row["id"] for row in rows])

        began = time.monotonic()
        await _overlap(claim, finish)
        return time.monotonic() - began


# The loop -----------------------------------------------------------------------------------------------------------


async def _overlap(claim: Claim, finish: Finish) -> None:
    """Claims the next batch while one batch is being finished, and no further ahead."""
    send, receive = anyio.create_memory_object_stream[Rows](1)
    async with anyio.create_task_group() as group:
        group.start_soon(_claim_all, claim, send)
        group.start_soon(_finish_all, finish, receive)


async def _claim_all(claim: Claim, batches: MemoryObjectSendStream[Rows]) -> None:
    with batches:
        while rows := await claim():
            await batches.send(rows)


async def _finish_all(finish: Finish, batches: MemoryObjectReceiveStream[Rows]) -> None:
    with batches:
        async for rows in batches:
            await finish(rows)


# The same statements in pgbench -------------------------------------------------------------------------------------


async def drain_with_pgbench(pgbench: Pgbench, url: str, count: int) -> None:
    """Runs two clients, each with claim and finish in turn, for `count` jobs."""
    await register(url)
    settings = "".join(f"set {name} = '{value}';\n" for name, value in session_settings(is_durable=True).items())
    script = (
        f"\\if :is_new\n{settings}\\set is_new 0\n\\endif\n{_claim_for_pgbench()} \\gset\n{_finish_for_pgbench()};\n"
    )
    await pgbench.run(url, script, clients=2, transactions=-(-count // (2 * BATCH)), variables={"is_new": "1"})


def _claim_for_pgbench() -> str:
    """A claim that returns ids and tokens as arrays. Like a pool's claim, it commits without waiting for the flush."""
    claim = _filled_in(
        "claim",
        f"'{{{','.join(CLAIMANT.queues)}}}'",
        f"'{{{','.join(CLAIMANT.tasks)}}}'",
        f"'{CLAIMANT.supervisor}'",
        str(CLAIMANT.pool),
        "gen_random_uuid()",
        str(BATCH),
        *["null", "null"],
        *["0", "false", "null", "null", "null"],
    )
    return (
        f"with claimed as (\n{claim}\n)\n"
        "select coalesce(array_agg(id order by id), '{}') as ids, coalesce(array_agg(token), '{}') as tokens, "
        "count(*) as jobs, set_config('synchronous_commit', 'off', true) as quick from claimed"
    )


def _finish_for_pgbench() -> str:
    began, now = (f"array_fill({ago}::float8, array[:jobs::int])" for ago in (0.001, 0))
    usual = "'{}'"
    return _filled_in("finish", ":ids", ":tokens", began, now, usual, usual, usual, usual)


def _filled_in(name: str, *arguments: str) -> str:
    text = "\n".join(line for line in statement(name).splitlines() if not line.lstrip().startswith("--"))
    for position, argument in reversed(list(enumerate(arguments, 1))):
        text = text.replace(f"${position}", argument)
    return text.rstrip().rstrip(";")
