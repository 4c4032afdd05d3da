"""A batch reads its own jobs, however many others there are, also when the planner believes that there are none.

A vacuum of the empty table notes that the table has no rows. Until the next ANALYZE, any plan for few rows looks cheap.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.job import Job
from pushq.outcome import Kind, Outcome
from pushq.pool.store import Claimant, Store
from pushq.progress import Unwritten
from pushq.sweeper.store import Store as SweepersStore
from tests.support.jobs import Connection, insert

OTHERS = 3000
BATCH = 10
ME = Claimant("me", 1, ("default",), ("any",))
READ = """
select sum(idx_tup_fetch + seq_tup_read)::int as read from pg_stat_xact_user_tables
where schemaname = 'pushq' and relname ~ '^jobs_(unfinished|[0-9_]+)$'
"""

Batch = list[Job]
Doing = Callable[[Store, SweepersStore, Batch], Awaitable[Any]]


def _fences(batch: Batch) -> tuple[list[UUID], list[UUID]]:
    return [job.id for job in batch], [job.token for job in batch]


def _ended(kind: Kind, **more: Any) -> Doing:
    return lambda store, _, batch: store.finish([Outcome(job, kind, **more) for job in batch])


async def _purge(sweeper: SweepersStore) -> None:
    await sweeper._session.fetch("select pushq.keep('old', '1 hour')")
    await sweeper._session.fetch(
        "insert into pushq.jobs (task, queue, tenant_id, status, finished_at, finished_on) "
        "select 'any', 'old', nullif(i % 2, 0)::text, 'succeeded', now() - interval '2 hours', pushq.current_day() "
        f"from generate_series(1, {BATCH}) as i"
    )
    (day,) = await sweeper.days_to_purge(timedelta(days=7))
    assert (await sweeper.purge_day(day, timedelta(days=7), 100, 1000)).purged == BATCH


DOINGS: dict[str, Doing] = {
    "finish": _ended(Kind.SUCCEEDED),
    "finish with results": _ended(Kind.SUCCEEDED, result="1"),
    "finish failed": _ended(Kind.FAILED, error="why"),
    "retry": _ended(Kind.RETRIED, delay=9.0, error="why"),
    "release": _ended(Kind.RELEASED),
    "detach": _ended(Kind.DETACHED, delay=60.0),
    "progress": lambda store, _, batch: store.write_progress([Unwritten(job.fence, "{}", ("a", "b")) for job in batch]),
    "still held": lambda store, _, batch: store.still_held([Outcome(job, Kind.SUCCEEDED) for job in batch]),
    "finished with token": lambda store, _, batch: store.finished_with_token(
        [Outcome(job, Kind.SUCCEEDED) for job in batch]
    ),
    "locked by others": lambda store, _, batch: store.locked_by_others([Outcome(job, Kind.SUCCEEDED) for job in batch]),
    "payload": lambda store, _, batch: store.payload(batch[0]),
    "claim": lambda store, _, __: store.claim(ME, uuid4(), BATCH),
    "take back": lambda store, _, batch: store.take_back("me", batch[0].token),
    "requeue crashed": lambda _, sweeper, __: sweeper.requeue(["me"], crashed=True),
    "requeue released": lambda _, sweeper, __: sweeper.requeue(["me"], crashed=False),
    "purge": lambda _, sweeper, __: _purge(sweeper),
    "cancel": lambda store, _, batch: store._session.fetch("select pushq.cancel($1)", batch[0].id),
    "guest's finish": lambda store, _, batch: store._session.fetch(
        "select pushq.finish($1, $2, 'failed')", *batch[0].fence
    ),
    "watch": lambda store, _, batch: store._session.fetch(statement("watch"), [job.id for job in batch], "pushq_a"),
    "cancel jobs": lambda store, _, batch: store._session.fetch(
        statement("cancel_jobs"), [job.id for job in batch], [date.max for _ in batch], "running"
    ),
}


@pytest.fixture
async def stale(connection: Connection) -> AsyncIterator[Connection]:
    """Many jobs in a table that was vacuumed while it was empty."""
    await connection.execute("alter table pushq.jobs_unfinished set (autovacuum_enabled = off)")
    await insert(connection, "any", OTHERS)
    await connection.execute("delete from pushq.jobs_unfinished")
    await connection.execute("vacuum pushq.jobs_unfinished")
    assert await connection.fetchval("select reltuples from pg_class where relname = 'jobs_unfinished'") == 0
    await insert(connection, "any", OTHERS // 2)
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('me', 'here', 1, '1 hour', now() + interval '1 hour')"
    )
    yield connection
    await connection.execute("alter table pushq.jobs_unfinished reset (autovacuum_enabled)")


@pytest.mark.parametrize("doing", DOINGS.values(), ids=DOINGS)
async def test_a_batch_reads_no_other_jobs(stale: Connection, database_url: str, doing: Doing) -> None:
    session = Session(database_url, "test")
    store, sweeper = Store(session, supervisor="me"), SweepersStore(session)
    batch = await store.claim(ME, uuid4(), BATCH)
    await insert(stale, "any", OTHERS // 2)
    await session.fetch("begin")
    (before,) = await session.fetch(READ)
    await doing(store, sweeper, batch)
    (after,) = await session.fetch(READ)
    await session.fetch("rollback")
    await session.close()
    assert after["read"] - (before["read"] or 0) <= 40 * BATCH
