"""Jobs that are copied are as those that are inserted, at the speed of COPY."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

from pushq import NewJob, Queue
from pushq.errors import PayloadError, UnusableConnection
from pushq.producers.rows import parts
from tests.producers.drivers import by_asyncpg, by_asyncpg_s_pool, by_psycopg, by_psycopg_with_habits, by_sync_psycopg
from tests.support.waiting import wait_until

NASTY = "a\\tb\t\\N\n\\.\r'\"% ä \\\\"
JOBS = [
    NewJob("plain"),
    NewJob(
        NASTY,
        {NASTY: [NASTY, None, 12345678901234567890123]},
        queue=NASTY,
        priority=-3,
        run_at=datetime.now(UTC) + timedelta(days=1, microseconds=1),
        max_attempts=2,
        timeout=timedelta(days=1, hours=30, microseconds=7),
        unique_key=NASTY,
        tenant_id="\\N",
        correlation_id="c",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        webhook_url="https://example.com/hook",
        needs=[NASTY, "gpu"],
        limit_key=NASTY,
        affinity="\\N",
        id=uuid4(),
    ),
    *(NewJob("many", {"number": number}) for number in range(1_200)),
    NewJob("due", run_at=datetime(2020, 1, 1, tzinfo=UTC)),
    NewJob("key", unique_key="k"),
    NewJob("key", unique_key="k", tenant_id="acme"),
]
COLUMNS = (
    "task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, "
    "traceparent, webhook_url, needs, limit_key, affinity"
)
CALLERS = {
    "asyncpg": by_asyncpg,
    "asyncpg's pool": by_asyncpg_s_pool,
    "psycopg": by_psycopg,
    "psycopg with habits": by_psycopg_with_habits,
}


@pytest.fixture
def onlooker(database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture(params=CALLERS)
async def caller(database_url: str, request: Any) -> AsyncIterator[Any]:
    async with CALLERS[request.param](database_url) as caller:
        yield caller


def jobs(onlooker: psycopg.Connection[dict[str, Any]]) -> list[dict[str, Any]]:
    """All jobs, in the order of insertion. A run_at that was not given is left out."""
    due = "case when run_at not between now() - interval '1 hour' and now() then run_at end as run_at"
    own = "pushq.own_needs(needs) as needs"
    rows = onlooker.execute(
        f"select id, {COLUMNS.replace('run_at', due).replace('needs', own)} from pushq.jobs order by ctid"
    ).fetchall()
    return [{name: value for name, value in row.items() if name != "id"} for row in rows]


async def test_what_is_copied_is_what_would_be_inserted(database_url: str, caller: Any, onlooker: Any) -> None:
    assert await Queue().copy(iter(JOBS), connection=caller.connection) == len(JOBS)
    assert jobs(onlooker) == []
    await caller.commit()
    copied = jobs(onlooker)
    onlooker.execute("delete from pushq.jobs")
    connection = await asyncpg.connect(database_url)
    for job in JOBS:
        await Queue().insert(job, connection=connection)
    await connection.close()

    assert copied == jobs(onlooker)


def test_without_asyncio_too(database_url: str, onlooker: Any) -> None:
    with by_sync_psycopg(database_url) as caller:
        assert Queue("mail").copy_sync(JOBS, connection=caller.connection) == len(JOBS)
        assert jobs(onlooker) == []
        caller.commit()
        assert {(job["task"], job["queue"]) for job in jobs(onlooker)} == {(job.task, "mail") for job in JOBS}


async def test_ids_that_are_given_are_kept_and_the_order_of_the_others_is_theirs(caller: Any, onlooker: Any) -> None:
    given = uuid4()
    await Queue().copy([NewJob("a"), NewJob("b", id=given), NewJob("c")], connection=caller.connection)
    await caller.commit()
    ids = {row["task"]: row["id"] for row in onlooker.execute("select task, id from pushq.jobs").fetchall()}
    assert (ids["b"], ids["a"] < ids["c"]) == (given, True)


REFUSED: dict[str, tuple[list[Any], type[Exception] | tuple[type[Exception], ...]]] = {
    "a rule": ([*JOBS, NewJob("")], (asyncpg.CheckViolationError, psycopg.errors.CheckViolation)),
    "a key": ([NewJob("a", unique_key="x")] * 2, (asyncpg.UniqueViolationError, psycopg.errors.UniqueViolation)),
    "no JSON": ([*JOBS, NewJob("a", {"no": object()})], PayloadError),
    "no job": ([*JOBS, "job"], TypeError),
    "a NUL": ([NewJob("a", {"no": "\0"})], PayloadError),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused_leaves_nothing_and_a_transaction_that_can_be_rolled_back(
    caller: Any, onlooker: Any, what: str
) -> None:
    given, error = REFUSED[what]
    with pytest.raises(error):
        await Queue().copy(given, connection=caller.connection)
    await caller.rollback()

    assert jobs(onlooker) == []


@pytest.mark.parametrize("lent", [asyncpg.create_pool, asyncpg.connect, psycopg.AsyncConnection.connect])
async def test_a_connection_outside_of_a_transaction_copies_all_or_nothing(
    database_url: str, onlooker: Any, lent: Any
) -> None:
    connection = await lent(database_url, **({"autocommit": True} if "psycopg" in lent.__module__ else {}))
    several = [NewJob("a"), NewJob("b", id=uuid4()), NewJob("")]
    with pytest.raises((asyncpg.CheckViolationError, psycopg.errors.CheckViolation)):
        await Queue().copy(several, connection=connection)
    assert await Queue().copy(several[:2], connection=connection) == 2
    assert await Queue().copy([], connection=connection) == 0
    await connection.close()

    assert [job["task"] for job in jobs(onlooker)] == ["a", "b"]


async def test_jobs_are_made_while_those_before_are_inserted(database_url: str, onlooker: Any) -> None:
    connection = await asyncpg.connect(database_url)
    progress = "select tuples_processed from pg_stat_progress_copy"

    def make() -> Iterator[NewJob]:
        for number in range(30_000):
            yield NewJob("a", {"number": number})
        # On a busy machine the server may be far behind with what has been sent.
        wait_until(lambda: onlooker.execute(progress).fetchone()["tuples_processed"] > 1_000)

    assert await Queue().copy(make(), connection=connection) == 30_000
    await connection.close()


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [(psycopg.Connection, "call Queue.copy_sync, without await"), (str, "with any other, call Queue.insert_many")],
)
async def test_a_connection_that_cannot_copy_is_refused_with_the_remedy(kind: Any, remedy: str) -> None:
    with pytest.raises(UnusableConnection, match=remedy):
        await Queue().copy([NewJob("a")], connection=kind.__new__(kind))


def test_a_job_is_copied_by_the_columns_it_needs() -> None:
    wide = dataclasses.replace(NewJob("b"), tenant_id="acme")
    several = [*[NewJob("a")] * 500, wide, *[NewJob("c")] * 600]
    found = [(columns[4:], b"".join(lines).count(b"\n")) for columns, lines in parts(several, lambda _: "{}", None)]
    assert found == [((), 500), (("tenant_id",), 500), ((), 101)]
