"""Jobs are inserted in the caller's transaction, whichever driver's connection the caller has."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from pushq import NewJob, Queue
from tests.producers.drivers import CALLERS, SYNC_CALLERS, Caller, SyncCaller, of_driver

EVERYTHING = NewJob(
    "report",
    {"id": 12345678901234567890123, "percent": "100% :of $1 ä"},
    queue="slow",
    priority=-3,
    run_at=datetime.now(UTC) + timedelta(days=1),
    max_attempts=2,
    timeout=timedelta(minutes=5),
    unique_key="report-7",
    tenant_id="acme",
    correlation_id="request-9",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    webhook_url="https://example.com/hook?a=100%25",
    needs=["100% gpu\\", ":of $1"],
    limit_key="account 7",
    affinity="model 1",
    id=uuid4(),
)
A_DAY = timedelta(days=1)
KEYS = [NewJob("a", unique_key=key) for key in ("x", "y", "x")]
NO_TASK = [NewJob("a"), NewJob("")]
NO_TASK_RULE = "jobs_task_has_1_to_200_characters"


@pytest.fixture(params=CALLERS)
async def caller(database_url: str, request: Any) -> AsyncIterator[Caller]:
    async with CALLERS[request.param](database_url) as caller:
        yield caller


@pytest.fixture(params=SYNC_CALLERS)
def sync_caller(database_url: str, request: Any) -> Iterator[SyncCaller]:
    with SYNC_CALLERS[request.param](database_url) as caller:
        yield caller


@pytest.fixture
def jobs(database_url: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What somebody else sees in the table."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("set timezone to 'UTC'")
        columns = "id, task, payload::text, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id"
        text = (
            f"select {columns}, correlation_id, traceparent, webhook_url, pushq.own_needs(needs) as needs, limit_key, "
        )
        text += "affinity from pushq.jobs order by id"
        yield lambda: connection.execute(text).fetchall()


async def test_a_job_is_there_once_its_caller_has_committed(caller: Caller, jobs: Callable[[], Any]) -> None:
    job_id = await Queue("mail").insert(NewJob("a"), connection=caller.connection)
    assert jobs() == []
    await caller.commit()

    assert [(job["id"], job["queue"]) for job in jobs()] == [(job_id, "mail")]
    assert isinstance(job_id, UUID)


async def test_a_job_is_gone_once_its_caller_has_rolled_back(caller: Caller, jobs: Callable[[], Any]) -> None:
    assert await Queue().insert(NewJob("a"), connection=caller.connection)
    await caller.rollback()

    assert jobs() == []


async def test_every_column_arrives(caller: Caller, jobs: Callable[[], Any]) -> None:
    assert await Queue().insert(EVERYTHING, connection=caller.connection) == EVERYTHING.id
    await caller.commit()

    assert jobs() == [everything()]


async def test_jobs_whose_key_is_taken_are_left_out(caller: Caller, jobs: Callable[[], Any]) -> None:
    ids = await Queue().insert_many([*KEYS, *[NewJob("a")] * 100], connection=caller.connection)
    assert await Queue().insert(NewJob("a", unique_key="y"), connection=caller.connection) is None
    assert await Queue().insert_many([], connection=caller.connection) == []
    await caller.commit()

    assert {job["id"] for job in jobs()} == set(ids)
    assert len(ids) == 102


async def test_a_job_that_stands_is_found(caller: Caller, jobs: Callable[[], Any]) -> None:
    job = dataclasses.replace(EVERYTHING, id=None)
    done = await Queue().enqueue(job, connection=caller.connection)
    again = await Queue().enqueue_many(
        [NewJob("b", unique_key="z"), job], connection=caller.connection, standing="replace", longest_delay=A_DAY
    )
    await caller.commit()

    assert [done.inserted, *(each.inserted for each in again)] == [True, True, False]
    assert again[1].id == done.id
    assert jobs()[0] == everything() | {"id": done.id}


async def test_a_rule_that_is_broken_refuses_all(caller: Caller, jobs: Callable[[], Any]) -> None:
    with pytest.raises(Exception, match=NO_TASK_RULE) as raised:
        await Queue().insert_many(NO_TASK, connection=caller.connection)
    await caller.rollback()

    assert raised.value.__class__.__name__ in ("CheckViolationError", "CheckViolation", "IntegrityError")
    assert jobs() == []


def test_a_job_is_there_once_its_sync_caller_has_committed(sync_caller: SyncCaller, jobs: Callable[[], Any]) -> None:
    job_id = Queue("mail").insert_sync(NewJob("a"), connection=sync_caller.connection)
    assert jobs() == []
    sync_caller.commit()

    assert [(job["id"], job["queue"]) for job in jobs()] == [(job_id, "mail")]
    assert isinstance(job_id, UUID)


def test_a_job_is_gone_once_its_sync_caller_has_rolled_back(sync_caller: SyncCaller, jobs: Callable[[], Any]) -> None:
    assert Queue().insert_sync(NewJob("a"), connection=sync_caller.connection)
    sync_caller.rollback()

    assert jobs() == []


def test_every_column_of_a_sync_caller_s_arrives(sync_caller: SyncCaller, jobs: Callable[[], Any]) -> None:
    assert Queue().insert_sync(EVERYTHING, connection=sync_caller.connection) == EVERYTHING.id
    sync_caller.commit()

    assert jobs() == [everything()]


def test_a_sync_caller_s_jobs_whose_key_is_taken_are_left_out(sync_caller: SyncCaller, jobs: Callable[[], Any]) -> None:
    ids = Queue().insert_many_sync([*KEYS, *[NewJob("a")] * 100], connection=sync_caller.connection)
    assert Queue().insert_sync(NewJob("a", unique_key="y"), connection=sync_caller.connection) is None
    assert Queue().insert_many_sync([], connection=sync_caller.connection) == []
    sync_caller.commit()

    assert {job["id"] for job in jobs()} == set(ids)
    assert len(ids) == 102


def test_a_job_that_stands_is_found_for_a_sync_caller(sync_caller: SyncCaller, jobs: Callable[[], Any]) -> None:
    job = dataclasses.replace(EVERYTHING, id=None)
    done = Queue().enqueue_sync(job, connection=sync_caller.connection, window=A_DAY)
    again = Queue().enqueue_many_sync(
        [NewJob("b", unique_key="z"), job], connection=sync_caller.connection, window=A_DAY
    )
    sync_caller.commit()

    assert [done.inserted, *(each.inserted for each in again)] == [True, True, False]
    assert again[1].id == done.id
    assert jobs()[0] == everything() | {"id": done.id}


def test_a_rule_that_a_sync_caller_breaks_refuses_all(sync_caller: SyncCaller, jobs: Callable[[], Any]) -> None:
    with pytest.raises(Exception, match=NO_TASK_RULE) as raised:
        Queue().insert_many_sync(NO_TASK, connection=sync_caller.connection)
    sync_caller.rollback()

    assert raised.value.__class__.__name__ in ("CheckViolation", "IntegrityError")
    assert jobs() == []


async def test_a_pool_of_asyncpg_inserts_in_a_transaction_of_its_own(
    database_url: str, jobs: Callable[[], Any]
) -> None:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        job_id = await Queue().insert(NewJob("a"), connection=pool)
        assert [job["id"] for job in jobs()] == [job_id]
        with pytest.raises(asyncpg.CheckViolationError, match=NO_TASK_RULE):
            await Queue().insert_many(NO_TASK, connection=pool)

    assert len(jobs()) == 1


async def test_a_sync_session_of_an_async_one_will_do(database_url: str, jobs: Callable[[], Any]) -> None:
    engine = create_async_engine(of_driver(database_url, "asyncpg"))
    async with AsyncSession(engine) as session, session.begin():
        job_id = await session.run_sync(lambda inner: Queue().insert_sync(NewJob("a"), connection=inner))
    await engine.dispose()

    assert [job["id"] for job in jobs()] == [job_id]


def everything() -> dict[str, Any]:
    payload = '{"id": 12345678901234567890123, "percent": "100% :of $1 ä"}'
    return dataclasses.asdict(EVERYTHING) | {"payload": payload}
