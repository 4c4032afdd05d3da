"""docs/examples/graph: the app's statements run unchanged upon two views, by old workers and pushq's pools."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq.database.schema import faults
from pushq.database.session import Session
from pushq.sweeper import Sweeper
from pushq.sweeper.store import Store
from tests.examples.files import EXAMPLES, apply, statements, supervising_example
from tests.support.jobs import Connection
from tests.support.pages import Shell
from tests.support.supervisors import environment
from tests.support.waiting import eventually

EXAMPLE = "graph"
OLD = statements(EXAMPLE)
QUEUED, RUNNING, COMPLETED, FAILED, CANCELED = range(5)
BUILD, OVERLAY = range(2)


async def insert(connection: Connection, kind: int = BUILD, tenant: str = "acme", **payload: object) -> UUID:
    job = uuid4()
    given = (job, tenant, kind, json.dumps({"graph": "a b"} | payload), f"request {job}")
    assert await connection.execute(OLD["INSERT"], *given) == "INSERT 0 1"
    return job


async def try_replace(
    connection: Connection,
    job: UUID,
    expected: int,
    status: int,
    kind: int = BUILD,
    tenant: str = "acme",
    **state: object,
) -> bool:
    payload = json.dumps({"graph": "a b"} | state)
    told = await connection.execute(OLD["REPLACE"], tenant, job, expected, status, payload, kind)
    assert told in {"UPDATE 0", "UPDATE 1"}
    return told == "UPDATE 1"


async def row_of(connection: Connection, job: UUID) -> asyncpg.Record:
    row = await connection.fetchrow("select * from scheduler.graph_jobs where id = $1", job)
    assert row
    return row


async def status_of(connection: Connection, job: UUID) -> int:
    return int((await row_of(connection, job))["status"])


async def has_status(connection: Connection, job: UUID, status: int) -> None:
    async def look() -> bool:
        return await status_of(connection, job) == status

    await eventually(look, within=20)


async def events_of(connection: Connection, job: UUID) -> list[int]:
    return [row["status"] for row in await connection.fetch(OLD["EVENTS"], job)]


async def append(connection: Connection, job: UUID, status: int, tenant: str = "acme", payload: str = "{}") -> None:
    assert await connection.execute(OLD["EVENT"], job, tenant, status, payload) == "INSERT 0 1"


async def held_by_a_pool(connection: Connection, job: UUID) -> None:
    """The pool of a dead supervisor's: nobody runs the job, and nobody takes it away."""
    await connection.execute(
        """
        insert into pushq.supervisors (name, host, pid, lease, lease_until)
        values ('host 1 2', 'host', 1, '1 hour', now() + interval '1 hour')
        on conflict do nothing
        """
    )
    await connection.execute("select pushq.claim_locked(array[$1::uuid], 'host 1 2', 1, gen_random_uuid())", job)


async def rows_of(connection: Connection, table: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(f"select * from scheduler.{table} order by id")]


async def guests(connection: Connection) -> list[str]:
    return [row["name"] for row in await connection.fetch("select name from pushq.supervisors where pid <= 0")]


@pytest.fixture
async def crowd(database_url: str) -> AsyncIterator[list[Connection]]:
    connections = await asyncio.gather(*(asyncpg.connect(database_url) for _ in range(6)))
    yield connections
    for one in connections:
        await one.close(timeout=5)


# What the app sees ---------------------------------------------------------------------------------------------------


async def test_the_views_have_the_columns_of_the_tables_their_types_and_their_order(
    connection: Connection, migrated: Connection
) -> None:
    columns = """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass('scheduler.' || $1) and attnum > 0 order by attnum
    """
    await migrated.execute(OLD["OLD"])
    for name in ("graph_jobs", "graph_job_events"):
        assert await connection.fetch(columns, name) == await migrated.fetch(columns, name)
        kind = "select relkind from pg_class where oid = to_regclass('scheduler.' || $1)"
        assert await connection.fetchval(kind, name) == b"v"
    assert await connection.fetchval("select all_events from pushq.queues where name = 'graph'")


async def test_a_job_is_inserted_found_and_replaced_as_in_the_old_table(connection: Connection) -> None:
    job = await insert(connection, OVERLAY, n=1)
    row = await row_of(connection, job)
    payload = {"graph": "a b", "n": 1}
    assert (*tuple(row)[:4], json.loads(row["payload"])) == (job, "acme", OVERLAY, QUEUED, payload)
    assert (row["correlation_id"], row["updated_at"]) == (f"request {job}", row["created_at"])
    task = await connection.fetchrow("select task, queue, tenant_id, correlation_id from pushq.jobs")
    assert task is not None
    assert tuple(task) == ("graph.overlay", "graph", "acme", f"request {job}")
    assert json.loads(await connection.fetchval(OLD["GET"], "acme", job, OVERLAY)) == payload
    for others in (("globex", job, OVERLAY), ("acme", job, BUILD), ("acme", uuid4(), OVERLAY)):
        assert await connection.fetchval(OLD["GET"], *others) is None

    for tenant, kind, expected in (
        ("globex", OVERLAY, QUEUED),
        ("acme", BUILD, QUEUED),
        ("acme", OVERLAY, RUNNING),
        ("acme", OVERLAY, COMPLETED),
    ):
        assert not await try_replace(connection, job, expected, RUNNING, kind, tenant)
    assert await row_of(connection, job) == row
    assert await try_replace(connection, job, QUEUED, RUNNING, OVERLAY, step=1)
    assert await guests(connection) == [f"guest:graph {job}"]
    running = await row_of(connection, job)
    assert (running["status"], json.loads(running["payload"])) == (RUNNING, {"graph": "a b", "step": 1})
    assert running["updated_at"] > running["created_at"] == row["created_at"]
    assert await try_replace(connection, job, RUNNING, RUNNING, OVERLAY, step=2)
    assert json.loads(await connection.fetchval(OLD["GET"], "acme", job, OVERLAY))["step"] == 2
    assert await try_replace(connection, job, RUNNING, COMPLETED, OVERLAY, nodes=3)
    done = await row_of(connection, job)
    assert (done["status"], json.loads(done["payload"])) == (COMPLETED, {"graph": "a b", "nodes": 3})
    assert (done["updated_at"] > running["updated_at"], await guests(connection)) == (True, [])
    for status in (RUNNING, COMPLETED, FAILED, CANCELED):
        assert not await try_replace(connection, job, COMPLETED, status, OVERLAY)
    assert await row_of(connection, job) == done
    assert await events_of(connection, job) == [RUNNING, COMPLETED]


async def test_times_that_the_app_sends_are_ignored_and_what_is_returned_is_what_is_kept(
    connection: Connection,
) -> None:
    row = await connection.fetchrow(
        """
        insert into scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
        values (gen_random_uuid(), 'acme', 1, 0, '{}', '2020-01-01', '2020-01-01', '') returning *
        """
    )
    assert row
    assert await row_of(connection, row["id"]) == row
    assert await connection.fetchval("select now() - $1 < '1 min'", row["created_at"])
    changed = "update scheduler.graph_jobs set status = $2, updated_at = '2020-01-01' where id = $1 returning *"
    for status in (RUNNING, QUEUED, RUNNING, FAILED, QUEUED, CANCELED):
        returned = await connection.fetchrow(changed, row["id"], status)
        assert returned == await row_of(connection, row["id"])
        assert returned["status"] == status
    assert await events_of(connection, row["id"]) == [RUNNING, QUEUED, RUNNING, FAILED, QUEUED, CANCELED]
    event = """
        insert into scheduler.graph_job_events (id, job_id, tenant_id, status, payload, created_at)
        values (1, $1, 'acme', 7, '[1]', '2020-01-01') returning *
    """
    added = await connection.fetchrow(event, row["id"])
    assert added
    assert tuple(added)[1:5] == (row["id"], "acme", 7, "[1]")
    assert added == await connection.fetchrow("select * from scheduler.graph_job_events order by id desc limit 1")
    assert added["created_at"] > row["created_at"]


async def test_lists_are_newest_first_by_tenant_kind_and_status(connection: Connection) -> None:
    jobs = [await insert(connection, number % 2) for number in range(6)]
    await insert(connection, tenant="globex")
    await connection.execute("insert into pushq.jobs (task, queue, tenant_id) values ('other', 'graph', 'acme')")
    await connection.execute("insert into pushq.jobs (task, queue) values ('graph.build', 'graph')")
    for job in jobs[:2]:
        assert await try_replace(connection, job, QUEUED, CANCELED, jobs.index(job) % 2)

    async def listed(statement: str, *given: object) -> list[UUID]:
        return [row["id"] for row in await connection.fetch(OLD[statement], *given)]

    assert await listed("LIST", "acme", BUILD, 10) == [jobs[4], jobs[2], jobs[0]]
    assert await listed("LIST", "acme", OVERLAY, 2) == [jobs[5], jobs[3]]
    assert await listed("LIST_BY", "acme", BUILD, QUEUED, 10) == [jobs[4], jobs[2]]
    assert await listed("LIST_BY", "acme", BUILD, CANCELED, 10) == [jobs[0]]
    assert await listed("BY_STATUS", "acme", QUEUED, 3) == [jobs[5], jobs[4], jobs[3]]
    assert await listed("BY_STATUS", "acme", CANCELED, 10) == [jobs[1], jobs[0]]
    assert await listed("BY_STATUS", "nobody", QUEUED, 10) == []


async def test_what_the_tables_refused_is_refused_with_the_same_sqlstate(connection: Connection) -> None:
    queued, finished, others = await insert(connection), await insert(connection), await insert(connection, tenant="x")
    await try_replace(connection, finished, QUEUED, CANCELED)
    foreign = await connection.fetchval("insert into pushq.jobs (task, tenant_id) values ('else', 'acme') returning id")
    fresh = uuid4()
    for sqlstate, statement, *given in (
        ("23505", "INSERT", queued, "acme", 0, "{}", None),
        ("23505", "INSERT", finished, "acme", 1, "{}", None),
        ("23505", "INSERT", others, "acme", 0, "{}", None),
        ("23502", "INSERT", None, "acme", 0, "{}", None),
        ("23502", "INSERT", fresh, None, 0, "{}", None),
        ("23502", "INSERT", fresh, "acme", None, "{}", None),
        ("23502", "INSERT", fresh, "acme", 0, None, None),
        ("23514", "INSERT", fresh, "acme", 2, "{}", None),
        ("23514", "INSERT", fresh, "acme", 0, "[1]", None),
        ("23514", "INSERT", fresh, "", 0, "{}", None),
        ("23502", "REPLACE", "acme", queued, 0, None, "{}", 0),
        ("23502", "REPLACE", "acme", queued, 0, 1, None, 0),
        ("23514", "REPLACE", "acme", queued, 0, 5, "{}", 0),
        ("23514", "REPLACE", "acme", queued, 0, 1, "[1]", 0),
        ("23503", "EVENT", fresh, "acme", 0, "{}"),
        ("23503", "EVENT", others, "acme", 0, "{}"),
        ("23503", "EVENT", foreign, "acme", 0, "{}"),
        ("23502", "EVENT", None, "acme", 0, "{}"),
        ("23502", "EVENT", queued, None, 0, "{}"),
        ("23502", "EVENT", queued, "acme", None, "{}"),
        ("23502", "EVENT", queued, "acme", 0, None),
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(OLD[statement], *given)
        assert refused.value.sqlstate == sqlstate, (statement, *given)
    assert refused.value.as_dict()["column_name"] == "payload"
    for change in ("tenant_id = 'x'", "type = 1", "id = gen_random_uuid()", "correlation_id = null"):
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await connection.execute(f"update scheduler.graph_jobs set {change} where id = $1", queued)
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await connection.execute(OLD["INSERT"].replace(",0,", ",1,"), fresh, "acme", 0, "{}", None)
    assert await connection.fetchval("select count(*) from scheduler.graph_jobs") == 3
    assert await connection.fetchval("select count(*) from scheduler.graph_job_events") == 1
    assert await status_of(connection, queued) == QUEUED
    assert await guests(connection) == []


# Events --------------------------------------------------------------------------------------------------------------


async def test_the_app_s_events_stand_beside_pushq_s_in_order(connection: Connection) -> None:
    job, other = await insert(connection), await insert(connection, tenant="globex")
    await append(connection, job, QUEUED, payload='{"by": "app"}')
    await try_replace(connection, job, QUEUED, RUNNING)
    await append(connection, job, RUNNING, payload="[null]")
    await append(connection, other, QUEUED, "globex")
    await connection.execute("select pushq.note($1, '{\"step\": 1}')", job)
    await connection.execute("update pushq.jobs set priority = 1 where id = $1", job)
    await try_replace(connection, job, RUNNING, FAILED)
    assert await events_of(connection, job) == [QUEUED, RUNNING, RUNNING, FAILED]
    rows = await connection.fetch("select * from scheduler.graph_job_events where job_id = $1 order by id", job)
    told = [(row["tenant_id"], row["status"], json.loads(row["payload"])) for row in rows]
    assert told == [
        ("acme", QUEUED, {"by": "app"}),
        ("acme", RUNNING, {"kind": "claimed", "attempt": 1}),
        ("acme", RUNNING, [None]),
        ("acme", FAILED, {"kind": "failed", "attempt": 1, "error": "failed"}),
    ]
    assert await events_of(connection, other) == [QUEUED]
    notes = "select detail from pushq.job_events where kind = 'note' and job_id = $1"
    assert json.loads(await connection.fetchval(notes, other)) == {"status": 0, "payload": {}}
    for change in (
        "delete from scheduler.graph_job_events",
        "update scheduler.graph_job_events set created_at = now()",
    ):
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="events stay"):
            await connection.execute(change)


async def test_an_app_that_appends_all_events_turns_pushq_s_off_and_they_stay_off(
    connection: Connection, database_url: str
) -> None:
    await connection.execute("select pushq.keep_all_events('graph', false)")
    await apply(database_url, EXAMPLE, "schema.sql")
    job = await insert(connection)
    for status in (RUNNING, COMPLETED):
        await try_replace(connection, job, status - 1, status)
        await append(connection, job, status)
    assert await events_of(connection, job) == [RUNNING, COMPLETED]


async def test_notes_of_any_form_stop_nobody(connection: Connection) -> None:
    job = await insert(connection)
    for detail in (
        *('{"status": "x", "payload": 1}', '{"status": 1}', "[]", "1", '{"status": 1e9, "payload": 1}'),
        '{"status": 3, "payload": 1, "id": 1e99}',
    ):
        await connection.execute("select pushq.note($1, $2)", job, detail)
    await connection.execute("select pushq.note($1, null)", job)
    assert await events_of(connection, job) == [FAILED]


# Who may write -------------------------------------------------------------------------------------------------------


async def test_what_a_pool_holds_is_canceled_and_nothing_else(connection: Connection) -> None:
    job = await insert(connection)
    await held_by_a_pool(connection, job)
    whole = "select * from pushq.jobs where id = $1"
    before = await connection.fetchrow(whole, job)
    for expected, status in ((QUEUED, RUNNING), (QUEUED, CANCELED), *((RUNNING, status) for status in range(4))):
        assert not await try_replace(connection, job, expected, status, stolen=True)
    assert await connection.fetchrow(whole, job) == before
    assert await try_replace(connection, job, RUNNING, CANCELED, why="tired")
    row = await row_of(connection, job)
    assert (row["status"], json.loads(row["payload"])["why"]) == (CANCELED, "tired")
    finish = "select pushq.finish($1, $2, 'succeeded')"
    assert before
    assert not await connection.fetchval(finish, job, before["token"])
    assert await events_of(connection, job) == [RUNNING, CANCELED]


async def test_a_job_that_others_wait_for_is_canceled_once(connection: Connection) -> None:
    job = await insert(connection)
    await connection.execute("update pushq.jobs set waiters = '{pushq_x}'")
    await held_by_a_pool(connection, job)
    assert await try_replace(connection, job, RUNNING, CANCELED)
    assert await status_of(connection, job) == RUNNING  # until the pool has stopped the handler
    for status in (RUNNING, COMPLETED, CANCELED):
        assert not await try_replace(connection, job, RUNNING, status)


async def test_guests_of_other_languages_are_not_old_workers(connection: Connection) -> None:
    job = await insert(connection)
    await connection.fetch("select * from pushq.take_next('graph', 'node 1')")
    for status in (QUEUED, RUNNING, COMPLETED, FAILED):
        assert not await try_replace(connection, job, RUNNING, status)
    assert await try_replace(connection, job, RUNNING, CANCELED)
    assert await guests(connection) == []


async def test_a_queued_job_gets_another_payload_and_has_no_end_but_canceled(connection: Connection) -> None:
    job = await insert(connection)
    assert await try_replace(connection, job, QUEUED, QUEUED, n=2)
    for status in (COMPLETED, FAILED):
        assert not await try_replace(connection, job, QUEUED, status)
    assert json.loads((await row_of(connection, job))["payload"]) == {"graph": "a b", "n": 2}
    assert await try_replace(connection, job, QUEUED, CANCELED)
    assert not await try_replace(connection, job, QUEUED, CANCELED)
    assert not await try_replace(connection, job, CANCELED, RUNNING)


async def test_a_deleted_job_is_gone_with_its_events_whoever_holds_it(connection: Connection) -> None:
    jobs = [await insert(connection) for _ in range(4)]
    await try_replace(connection, jobs[1], QUEUED, RUNNING)
    await try_replace(connection, jobs[2], QUEUED, CANCELED)
    await held_by_a_pool(connection, jobs[3])
    assert await connection.execute("delete from scheduler.graph_jobs") == "DELETE 4"
    assert await connection.fetchval("select count(*) from scheduler.graph_job_events") == 0
    assert await guests(connection) == []
    assert not await try_replace(connection, jobs[1], RUNNING, COMPLETED)


async def test_of_many_at_once_one_replaces_and_one_inserts(connection: Connection, crowd: list[Connection]) -> None:
    async def inserted(worker: Connection, job: UUID) -> bool:
        try:
            await worker.execute(OLD["INSERT"], job, "acme", BUILD, "{}", None)
        except asyncpg.UniqueViolationError:
            return False
        # And ends, while others are still inserting.
        assert await try_replace(worker, job, QUEUED, RUNNING)
        return await try_replace(worker, job, RUNNING, COMPLETED)

    for _ in range(8):
        job = uuid4()
        assert sum(await asyncio.gather(*(inserted(worker, job) for worker in crowd))) == 1
        assert await events_of(connection, job) == [RUNNING, COMPLETED]
    for expected, statuses in (
        (QUEUED, [RUNNING] * 6),
        (RUNNING, [COMPLETED, FAILED, CANCELED, QUEUED, COMPLETED, FAILED]),
        (QUEUED, [CANCELED, RUNNING] * 3),
        (FAILED, [QUEUED] * 6),
    ):
        for _ in range(8):
            job = await insert(connection)
            if expected != QUEUED:
                await try_replace(connection, job, QUEUED, RUNNING)
            if expected == FAILED:
                await try_replace(connection, job, RUNNING, FAILED)
            told = await asyncio.gather(
                *(
                    try_replace(worker, job, expected, status, by=status)
                    for worker, status in zip(crowd, statuses, strict=True)
                )
            )
            assert sum(told) == 1
            row = await row_of(connection, job)
            status = statuses[told.index(True)]
            assert (row["status"], json.loads(row["payload"])["by"]) == (status, status)


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize(("expected", "status"), [(QUEUED, RUNNING), (RUNNING, COMPLETED), (RUNNING, CANCELED)])
async def test_one_that_waits_for_the_other_s_commit_is_told_the_truth(
    connection: Connection, crowd: list[Connection], expected: int, status: int, is_committed: bool
) -> None:
    first, second, *_ = crowd
    job = await insert(connection)
    if expected == RUNNING:
        await try_replace(connection, job, QUEUED, RUNNING)
    transaction = first.transaction()
    await transaction.start()
    assert await try_replace(first, job, expected, status, by="first")
    waiting = asyncio.ensure_future(try_replace(second, job, expected, status, by="second"))
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    await eventually(lambda: connection.fetchval(waits))
    await (transaction.commit() if is_committed else transaction.rollback())
    assert await waiting is not is_committed
    by = "first" if is_committed else "second"
    row = await row_of(connection, job)
    assert (row["status"], json.loads(row["payload"])["by"]) == (status, by)
    assert (await events_of(connection, job))[-1] == status


async def test_an_old_worker_that_dies_loses_its_job_for_a_crash_and_its_late_end_changes_nothing(
    connection: Connection, database_url: str
) -> None:
    job = await insert(connection)
    worker = await asyncpg.connect(database_url, server_settings={"application_name": "old 7"})
    await worker.execute("set graph.lease = '200 ms'")
    assert await try_replace(worker, job, QUEUED, RUNNING)
    assert await guests(connection) == [f"guest:graph old 7 {job}"]
    worker.terminate()
    session = Session(database_url, "test")
    sweeper = Sweeper(Store(session), retention=604800)

    async def look() -> bool:
        await sweeper.sweep()
        return await status_of(connection, job) == QUEUED

    await eventually(look)
    await session.close()
    assert not await try_replace(connection, job, RUNNING, COMPLETED)
    assert await connection.fetchval("select crashes from pushq.jobs") == 1
    assert await events_of(connection, job) == [RUNNING, QUEUED]
    assert await try_replace(connection, job, QUEUED, RUNNING)


# With pushq's pools --------------------------------------------------------------------------------------------------


async def test_old_workers_and_pools_of_which_one_is_killed_run_each_job_once(
    connection: Connection, database_url: str, crowd: list[Connection]
) -> None:
    by_old_workers: set[UUID] = set()

    async def work(worker: Connection) -> None:
        while rows := await worker.fetch(OLD["LIST_BY"], "acme", BUILD, QUEUED, 50):
            for row in rows:
                if await try_replace(worker, row["id"], QUEUED, RUNNING):
                    await asyncio.sleep(0.02)
                    assert await try_replace(worker, row["id"], RUNNING, COMPLETED, by="old")
                    by_old_workers.add(row["id"])

    with supervising_example(database_url, EXAMPLE, "--queue", "graph", "--concurrency", "4") as supervisor:
        failed = await insert(connection, OVERLAY, fail="no such node")
        canceled, long = [await insert(connection, OVERLAY, seconds=30) for _ in range(2)]
        await has_status(connection, failed, FAILED)
        for job in (canceled, long):
            await has_status(connection, job, RUNNING)
        assert await try_replace(connection, canceled, RUNNING, CANCELED, OVERLAY)
        jobs = {await insert(connection, seconds=0.03) for _ in range(60)}
        await asyncio.gather(*map(work, crowd[:3]))
        assert not await try_replace(connection, long, RUNNING, COMPLETED, OVERLAY)
        await connection.execute('update pushq.jobs set payload = \'{"graph": "a b"}\' where id = $1', long)
        for pool in supervisor.pools:
            os.kill(pool, signal.SIGKILL)
        await eventually(
            lambda: connection.fetchval("select not exists (select from scheduler.graph_jobs where status < 2)"),
            within=20,
        )
    rows = await connection.fetch("select id, crashes, result from pushq.jobs where status = 'succeeded'")
    assert {row["id"] for row in rows} == jobs | {long}
    assert {row["id"] for row in rows if row["result"] is None} == by_old_workers
    assert 0 < len(by_old_workers) < 60
    assert sum(row["crashes"] for row in rows) > 0
    assert {row["result"] for row in rows} == {None, '{"edges": 1, "nodes": 2}'}
    assert await status_of(connection, canceled) == CANCELED
    error = await connection.fetchval("select error from pushq.jobs where id = $1", failed)
    assert error == "RuntimeError: no such node"
    for row in rows:  # what a pool has claimed ahead, it may give back
        *before, began, ended = await events_of(connection, row["id"])
        assert (before, began, ended) == ([RUNNING, QUEUED] * (len(before) // 2), RUNNING, COMPLETED)
        assert len(before) // 2 >= row["crashes"]
    assert await events_of(connection, failed) == [RUNNING, FAILED]
    assert await events_of(connection, canceled) == [RUNNING, CANCELED]


# How it is found -----------------------------------------------------------------------------------------------------


async def test_each_statement_of_the_app_reads_by_an_index_what_it_needs_and_sorts_nothing(
    connection: Connection,
) -> None:
    await connection.execute(
        """
        insert into pushq.jobs (task, queue, tenant_id, enqueued_at)
        select
            (array['graph.build', 'graph.overlay'])[1 + n % 2], 'graph', (array['acme', 'globex'])[1 + n % 3 / 2],
            now() - n * interval '1 s'
        from generate_series(1, 3000) as n;
        insert into pushq.jobs (task, queue, tenant_id, enqueued_at, status, started_at, finished_at, finished_on)
        select
            (array['graph.build', 'graph.overlay'])[1 + n % 2], 'graph', (array['acme', 'globex'])[1 + n % 3 / 2],
            now() - n * interval '1 s', (array['succeeded', 'failed'])[1 + n % 5 / 4], now(), now(), pushq.current_day()
        from generate_series(1, 4000) as n;
        insert into pushq.jobs (task, tenant_id) select 'other', 'acme' from generate_series(1, 1500);
        """
    )
    some = "select id from scheduler.graph_jobs where tenant_id = 'acme' and type = 0 and status = $1 limit 2"
    queued, finished = [[row["id"] for row in await connection.fetch(some, status)] for status in (QUEUED, COMPLETED)]
    for is_analyzed in (False, True):
        if is_analyzed:
            await connection.execute("analyze pushq.jobs")
        for statement, *given in (
            ("LIST", "acme", BUILD, 10),
            ("LIST_BY", "acme", BUILD, QUEUED, 10),
            ("LIST_BY", "acme", OVERLAY, COMPLETED, 10),
            ("BY_STATUS", "acme", QUEUED, 10),
            ("BY_STATUS", "acme", FAILED, 10),
            ("GET", "acme", queued[is_analyzed], BUILD),
            ("GET", "acme", finished[0], BUILD),
            ("REPLACE", "acme", finished[0], COMPLETED, RUNNING, "{}", BUILD),
            ("REPLACE", "acme", queued[is_analyzed], QUEUED, RUNNING, "{}", BUILD),
            ("EVENT", queued[0], "acme", 1, "{}"),
            ("EVENTS", queued[0]),
        ):
            plan = json.loads(await connection.fetchval(f"explain (analyze, format json) {OLD[statement]}", *given))
            assert most_rows_read(plan[0]["Plan"]) <= 12, (statement, is_analyzed)


def most_rows_read(node: dict[str, Any]) -> float:
    """By any part of the plan, those that it passed over included."""
    passed_over = sum(rows for name, rows in node.items() if name.startswith("Rows Removed"))
    own = (node["Actual Rows"] + passed_over) * node["Actual Loops"]
    return float(max([own, *map(most_rows_read, node.get("Plans", []))]))


# In and out ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def old(migrated: Connection) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The rows that were in the tables before: of each status, of long ago, with events of any order."""
    await migrated.execute(OLD["OLD"])
    await migrated.execute(
        """
        insert into scheduler.graph_jobs
        select
            gen_random_uuid(), (array['acme', 'globex'])[1 + n % 2], n % 2, n % 5, jsonb_build_object('graph', n),
            now() - n * interval '9 days', now() - n * interval '9 days' + n % 5 * interval '1 min',
            case n % 3 when 0 then 'request ' || n when 1 then '' end
        from generate_series(1, 60) as n;
        insert into scheduler.graph_jobs values (gen_random_uuid(), 'acme', 0, 2, '[1]', now(), now());
        select setval('scheduler.graph_job_events_id_seq', 5000);
        insert into scheduler.graph_job_events (job_id, tenant_id, status, payload, created_at)
        select id, tenant_id, n, jsonb_build_array(n), created_at + (case n when 3 then 0 else n end) * interval '1 min'
        from scheduler.graph_jobs, generate_series(0, 3) as n
        """
    )
    return await rows_of(migrated, "graph_jobs"), await rows_of(migrated, "graph_job_events")


async def test_the_rows_move_in_and_come_back_each_as_it_was(
    migrated: Connection, migrated_url: str, old: tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]
) -> None:
    jobs, events = old
    resumed = [(*row[:3], QUEUED if row[3] == RUNNING else row[3], *row[4:]) for row in jobs]
    definition = await defined(migrated)
    reader = f"reader_{uuid4().hex[:8]}"
    await migrated.execute(f"create role {reader}; grant select on scheduler.graph_job_events to {reader}")
    some = events[5][1]
    ordered = await events_of(migrated, some)
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")
    for _ in range(2):
        assert await rows_of(migrated, "graph_jobs") == resumed
        assert await rows_of(migrated, "graph_job_events") == events
        assert await events_of(migrated, some) == ordered == [0, 3, 1, 2]
        await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql", "move.sql", "schema.sql")
    for left in ("graph_jobs_before_pushq", "graph_job_events_before_pushq"):
        assert await rows_of(migrated, left) == []
    assert await migrated.fetchval(f"select has_table_privilege('{reader}', 'scheduler.graph_job_events', 'select')")
    assert await migrated.fetchval("select count(*) from pushq.tally_log") == 0
    assert await faults(migrated_url) == []
    with pytest.raises(asyncpg.UniqueViolationError):
        await migrated.execute(OLD["INSERT"], jobs[2][0], "acme", BUILD, "{}", None)

    new, ended, pools = [await insert(migrated) for _ in range(3)]
    await try_replace(migrated, new, QUEUED, RUNNING)
    await append(migrated, ended, QUEUED)
    await try_replace(migrated, ended, QUEUED, CANCELED)
    await held_by_a_pool(migrated, pools)
    now, events_now = await rows_of(migrated, "graph_jobs"), await rows_of(migrated, "graph_job_events")
    assert [row for row in events_now if row[0] <= events[-1][0]] == events
    await migrated.execute("insert into pushq.jobs (task, queue) values ('others', 'default')")
    await apply(migrated_url, EXAMPLE, "back.sql")
    back = [(*row[:3], QUEUED, *row[4:]) if row[0] == pools else row for row in now]
    assert await rows_of(migrated, "graph_jobs") == back
    *events_back, given_up = await rows_of(migrated, "graph_job_events")
    assert (events_back, given_up[1], given_up[3]) == (events_now, pools, QUEUED)
    assert await try_replace(migrated, new, RUNNING, COMPLETED)  # the old worker goes on
    await append(migrated, new, COMPLETED)
    assert await guests(migrated) == []
    assert [row["task"] for row in await migrated.fetch("select task from pushq.jobs")] == ["others"]
    assert await migrated.fetchval("select count(*) from pushq.job_events where kind <> 'deleted'") == 0
    assert await defined(migrated) == definition
    assert await faults(migrated_url) == []
    await apply(migrated_url, EXAMPLE, "back.sql")
    await migrated.execute(f"drop owned by {reader}; drop role {reader}")
    before = await rows_of(migrated, "graph_jobs"), await rows_of(migrated, "graph_job_events")
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql", "back.sql")  # and once more
    assert (await rows_of(migrated, "graph_jobs"), await rows_of(migrated, "graph_job_events")) == before


async def defined(connection: Connection) -> list[str]:
    """The tables as pg_dump would say."""
    parts = """
        select pg_get_indexdef(indexrelid) as part from pg_index
        where indrelid in (to_regclass('scheduler.graph_jobs'), to_regclass('scheduler.graph_job_events'))
        union all
        select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
        where conrelid in (to_regclass('scheduler.graph_jobs'), to_regclass('scheduler.graph_job_events'))
        union all
        select concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
        from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attrelid in (to_regclass('scheduler.graph_jobs'), to_regclass('scheduler.graph_job_events'))
        and attnum > 0
        order by part
    """
    return [row["part"] for row in await connection.fetch(parts)]


async def test_without_old_tables_the_way_back_makes_them_and_psql_runs_the_files(
    migrated: Connection, migrated_url: str, server_bin_directory: Path
) -> None:
    shell = Shell(migrated_url, server_bin_directory, EXAMPLES / EXAMPLE)
    psql = 'psql -qX -v ON_ERROR_STOP=1 "$PUSHQ_DATABASE_URL"'
    await migrated.execute(OLD["OLD"])
    definition = await defined(migrated)
    await migrated.execute("drop schema scheduler cascade")
    catalogue = "select count(*) from pg_class where relnamespace = 'pushq'::regnamespace and relkind not in ('i', 'I')"
    before = await migrated.fetchval(catalogue)
    assert shell.run(f"{psql} -f schema.sql -f schema.sql") == ""
    assert await migrated.fetchval(catalogue) == before
    job = await insert(migrated)
    await append(migrated, job, QUEUED)
    assert shell.run(f"{psql} -f back.sql -f back.sql") == ""
    assert [row[0] for row in await rows_of(migrated, "graph_jobs")] == [job]
    assert await events_of(migrated, job) == [QUEUED]
    await append(migrated, job, RUNNING)
    assert await defined(migrated) == definition
    indexes = "select count(*) from pg_class where relnamespace = 'pushq'::regnamespace and relname ~ 'graph_jobs'"
    assert await migrated.fetchval(indexes) == 0
    assert await migrated.fetchval("select count(*) from pushq.jobs") == 0


async def test_what_pushq_would_refuse_stays_with_its_events_and_comes_back(
    migrated: Connection, migrated_url: str, old: tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]
) -> None:
    await migrated.execute(
        """
        insert into scheduler.graph_jobs
        select gen_random_uuid(), tenant, type, status, payload, now(), now()
        from (values
            ('acme', 0, 0, '[1]'::jsonb), ('acme', 0, 1, '5'), ('', 0, 1, '{}'), ('acme', 7, 0, '{}'),
            ('acme', 0, 9, '{}')
        ) as given (tenant, type, status, payload);
        insert into scheduler.graph_job_events (job_id, tenant_id, status, payload)
        select id, 'somebody', 99, 'null' from scheduler.graph_jobs where status = 9 or payload = '{}'
        """
    )
    jobs, events = await rows_of(migrated, "graph_jobs"), await rows_of(migrated, "graph_job_events")
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")
    assert len(await rows_of(migrated, "graph_jobs_before_pushq")) == 5
    assert len(await rows_of(migrated, "graph_job_events_before_pushq")) == 3
    assert await rows_of(migrated, "graph_job_events") == old[1]
    await apply(migrated_url, EXAMPLE, "back.sql")
    assert len(await rows_of(migrated, "graph_jobs")) == len(jobs)
    assert await rows_of(migrated, "graph_job_events") == events


async def test_a_foreign_key_of_another_table_is_named_and_nothing_has_changed(
    migrated: Connection, migrated_url: str
) -> None:
    await migrated.execute(OLD["OLD"])
    await migrated.execute("create table notes (job_id uuid references scheduler.graph_jobs (id))")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as refused:
        await apply(migrated_url, EXAMPLE, "schema.sql")
    await migrated.execute(str(refused.value.as_dict()["hint"]).removeprefix("Run first: "))
    await apply(migrated_url, EXAMPLE, "schema.sql")
    await migrated.execute("drop table notes")


async def test_the_way_back_may_be_gone_while_all_work_and_no_job_is_lost(
    connection: Connection, database_url: str, crowd: list[Connection]
) -> None:
    await connection.execute("insert into pushq.jobs (task, queue) values ('others', 'default')")
    jobs = {await insert(connection, seconds=0.05) for _ in range(50)}

    async def work(worker: Connection) -> None:
        while rows := await worker.fetch(OLD["LIST_BY"], "acme", BUILD, QUEUED, 5):
            for row in rows:
                if await try_replace(worker, row["id"], QUEUED, RUNNING):
                    await asyncio.sleep(0.05)
                    assert await try_replace(worker, row["id"], RUNNING, COMPLETED, by="old")

    with supervising_example(database_url, EXAMPLE, "--queue", "graph", "--concurrency", "4"):
        await eventually(lambda: connection.fetchval("select count(*) > 3 from pushq.jobs where status = 'succeeded'"))
        working = asyncio.gather(*map(work, crowd[:3]))
        await eventually(lambda: connection.fetchval("select count(*) = 7 from pushq.jobs where status = 'running'"))
        await apply(database_url, EXAMPLE, "back.sql")
        await working  # upon the tables: the old workers do the rest
    rows = await rows_of(connection, "graph_jobs")
    assert ({row[0] for row in rows}, {row[3] for row in rows}) == (jobs, {COMPLETED})
    assert {"by" in row[4] for row in rows} == {True, False}
    assert await connection.fetchval("select string_agg(task, '') from pushq.jobs") == "others"


async def test_who_had_rights_upon_the_tables_alone_goes_on_with_the_views(
    migrated: Connection, migrated_url: str
) -> None:
    await migrated.execute(OLD["OLD"])
    app = f"app_{uuid4().hex[:8]}"
    await migrated.execute(
        f"create role {app}; grant usage on schema scheduler to {app};"
        f"grant select, insert, update on all tables in schema scheduler to {app}"
    )
    await apply(migrated_url, EXAMPLE, "schema.sql")
    await migrated.execute(f"set role {app}")
    job = await insert(migrated)
    assert await try_replace(migrated, job, QUEUED, RUNNING)
    await append(migrated, job, RUNNING)
    assert await try_replace(migrated, job, RUNNING, CANCELED)
    assert await events_of(migrated, job) == [RUNNING, RUNNING, CANCELED]
    for statement in ("select * from pushq.jobs", "delete from scheduler.graph_jobs"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await migrated.execute(statement)
    await migrated.execute(f"reset role; drop owned by {app}; drop role {app}")


async def test_all_examples_stand_in_one_database_each_with_its_own_jobs(
    connection: Connection, database_url: str
) -> None:
    await connection.execute("set search_path = public")
    job = await insert(connection)
    for other in ("ingest", "saas"):
        await apply(database_url, other, "schema.sql", "move.sql")
    tenant = await connection.fetchval("insert into tenants (name) values ('acme') returning id")
    await connection.execute("insert into job_queue (tenant_id, type) values ($1, 'ai_generate')", tenant)
    await connection.execute(
        "insert into graphiti_jobs (job_id, job_type, payload) values (gen_random_uuid(), 'bulk', '{}')"
    )
    for view in ("scheduler.graph_jobs", "graphiti_jobs", "job_queue"):
        assert await connection.fetchval(f"select count(*) from {view}") == 1
    indexes = """
        select count(*) from pg_indexes
        where tablename = (select to_char(max(day), '"jobs_"YYYY_MM_DD') from pushq.days) and indexdef ~ 'graph\\.build'
    """
    await connection.execute("select pushq.make_days(5)")  # new days get the indexes by themselves
    assert await connection.fetchval(indexes) == 4
    await apply(database_url, EXAMPLE, "schema.sql", "back.sql")
    assert [row[0] for row in await rows_of(connection, "graph_jobs")] == [job]
    assert await connection.fetchval("select count(*) from pushq.jobs") == 2
    assert await faults(database_url) == []


# The show ------------------------------------------------------------------------------------------------------------


def run(url: str | None, cwd: Path, until: str = "", **variables: str) -> tuple[int, str]:
    """The exit code of run.py, and what run.py said. until: a line at which Ctrl-C is pressed."""
    with subprocess.Popen(
        [sys.executable, EXAMPLES / EXAMPLE / "run.py"],
        env=environment(url) | variables,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout
        said = ""
        for line in running.stdout:
            said += line
            if until and until in line:
                running.send_signal(signal.SIGINT)
        return running.wait(20), said


def test_the_show_runs_from_any_directory_and_leaves_nothing(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="pushq-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)  # PostgreSQL's user gets in
        exit_code, told = run(None, tmp_path, TMPDIR=directory)
        assert exit_code == 0, told
        assert [*tmp_path.iterdir(), *Path(directory).iterdir()] == []
    assert "true, false" in told or "false, true" in told
    for said in (
        "the newest first",
        "failed: RuntimeError: no such node",
        "is canceled",
        "by an old worker: 0 1 1 2 2",
    ):
        assert said in told
    assert len(re.findall(r"^ +event \d+:", told, re.MULTILINE)) >= 8


@pytest.mark.parametrize("server", ["oldest"], indirect=True)
async def test_the_show_ends_at_ctrl_c_and_leaves_a_given_database_as_it_was(
    migrated: Connection, migrated_url: str, tmp_path: Path
) -> None:
    exit_code, told = await asyncio.to_thread(run, migrated_url, tmp_path, "is failed")
    assert exit_code == 130, told
    assert "nothing is left running" in told
    assert "Traceback" not in told
    assert await migrated.fetchval("select to_regnamespace('scheduler') is null")
    for table in ("jobs", "supervisors"):
        assert await migrated.fetchval(f"select count(*) from pushq.{table}") == 0
