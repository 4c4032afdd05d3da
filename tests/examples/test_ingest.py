"""docs/examples/ingest: the app's statements run unchanged, by ten old workers and pushq's pools on one queue."""

from __future__ import annotations

import asyncio
import json
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
from tests.support.jobs import Connection, has_count
from tests.support.pages import Shell
from tests.support.supervisors import environment
from tests.support.waiting import eventually

EXAMPLE = "ingest"
OLD = statements(EXAMPLE)
SUMMARY = '{"nodes": 3, "edges": 2, "episodes": 1}'


async def submit(connection: Connection, kind: str = "single", seconds: float = 0, **payload: Any) -> UUID:
    job = uuid4()
    body = json.dumps({"episodes": ["one"], "seconds": seconds} | payload)
    assert await connection.execute(OLD["SUBMIT"], job, kind, body, "ada") == "INSERT 0 1"
    return job


async def pick(connection: Connection) -> UUID | None:
    """As the old worker does: looks and starts in one transaction."""
    async with connection.transaction():
        row = await connection.fetchrow(OLD["PICK"])
        if row is None:
            return None
        assert await connection.execute(OLD["START"], row["job_id"]) == "UPDATE 1"
        return UUID(str(row["job_id"]))


async def watch(connection: Connection, job: UUID) -> asyncpg.Record:
    row = await connection.fetchrow(OLD["WATCH"], job)
    assert row
    return row


async def has_status(connection: Connection, job: UUID, status: str) -> None:
    async def look() -> bool:
        return bool((await watch(connection, job))["status"] == status)

    await eventually(look, within=20)


async def held_by_a_pool(connection: Connection, job: UUID) -> None:
    """The pool of a dead supervisor's: nobody runs the job, and nobody takes it away."""
    await connection.execute(
        """
        insert into pushq.supervisors (name, host, pid, lease, lease_until)
        values ('host 1 2', 'host', 1, '1 hour', now() + interval '1 hour')
        on conflict do nothing
        """
    )
    await connection.execute(
        "select pushq.claim_locked(array[$1::uuid], 'host 1 2', 1, gen_random_uuid())",
        job,
    )


async def rows_of(connection: Connection, table: str = "graphiti_jobs") -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(f"select * from {table} order by job_id")]


# What the app sees ---------------------------------------------------------------------------------------------------


async def test_the_view_has_the_columns_of_the_table_their_types_and_their_order(
    migrated: Connection, migrated_url: str
) -> None:
    columns = """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass($1) and attnum > 0 order by attnum
    """
    await migrated.execute(OLD["OLD"])
    table, stage = [await migrated.fetch(columns, name) for name in ("graphiti_jobs", "stage_3_queue")]
    await apply(migrated_url, EXAMPLE, "schema.sql")

    assert await migrated.fetchval("select relkind from pg_class where oid = to_regclass('graphiti_jobs')") == b"v"
    assert await migrated.fetch(columns, "graphiti_jobs") == table
    assert await migrated.fetch(columns, "graphiti_jobs_before_pushq") == table
    assert await migrated.fetch(columns, "stage_3_queue") == stage
    await apply(migrated_url, EXAMPLE, "back.sql")
    await migrated.execute("drop table stage_3_queue")
    await apply(migrated_url, EXAMPLE, "schema.sql")
    assert await migrated.fetch(columns, "stage_3_queue") == stage


async def test_an_old_worker_takes_a_job_and_ends_it(connection: Connection) -> None:
    first, second = await submit(connection, "bulk"), await submit(connection)
    row = await watch(connection, first)
    assert tuple(row) == ("queued", None, None, None, None)

    assert await pick(connection) == first
    row = await watch(connection, first)
    assert (row["status"], row["started_at"] is not None, row["finished_at"]) == ("running", True, None)
    assert await pick(connection) == second
    assert await pick(connection) is None
    assert await connection.execute(OLD["START"], first) == "UPDATE 0"
    assert await connection.execute(OLD["COMMIT"], first, SUMMARY) == "UPDATE 1"
    assert await connection.execute(OLD["FAIL"], second, "no graph") == "UPDATE 1"

    row = await watch(connection, first)
    assert (row["status"], row["error"], json.loads(row["summary"])) == ("committed", None, json.loads(SUMMARY))
    assert row["finished_at"] >= row["started_at"]
    row = await watch(connection, second)
    assert (row["status"], row["error"], row["summary"]) == ("failed", "no graph", None)
    done = await connection.fetchrow(OLD["METRICS"])
    assert done
    assert (done[0], done[1] is not None, done[2]) == (1, True, 3)
    assert await connection.fetchval("select count(*) from pushq.supervisors") == 0
    tallied = await connection.fetch("select task, outcome, jobs from pushq.tally_log order by task")
    assert [tuple(row) for row in tallied] == [("ingest.bulk", "succeeded", 1), ("ingest.single", "failed", 1)]


async def test_what_the_table_refused_is_refused_with_the_same_sqlstate(connection: Connection) -> None:
    finished, queued = await submit(connection), await submit(connection)
    await connection.execute(OLD["START"], finished)
    await connection.execute(OLD["COMMIT"], finished, SUMMARY)
    fresh, body = uuid4(), '{"episodes": []}'
    for sqlstate, *given in (
        ("23514", fresh, "other", body, None),
        ("23505", queued, "single", body, None),
        ("23505", finished, "single", body, None),
        ("23502", None, "single", body, None),
        ("23502", fresh, None, body, None),
        ("23502", fresh, "bulk", None, None),
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(OLD["SUBMIT"], *given)
        assert refused.value.sqlstate == sqlstate, given
    assert refused.value.as_dict()["column_name"] == "payload"
    for sqlstate, status in (("23514", "'done'"), ("23502", "null")):
        for statement in (
            f"update graphiti_jobs set status = {status} where job_id = $1",
            f"insert into graphiti_jobs (job_id, job_type, payload, status) select $1, 'bulk', '{{}}', {status}",
        ):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await connection.execute(statement, queued)
            assert refused.value.sqlstate == sqlstate
    assert await connection.fetchval("select count(*) from graphiti_jobs") == 2


async def test_rows_may_be_inserted_with_any_status_and_are_returned(connection: Connection) -> None:
    for status in ("queued", "running", "committed", "failed"):
        row = await connection.fetchrow(
            """
            insert into graphiti_jobs (job_id, job_type, payload, status, enqueued_at, started_at, finished_at, error)
            values (gen_random_uuid(), 'bulk', '{}', $1, '2024-01-01', '2024-01-02', '2024-01-03', 'was') returning *
            """,
            status,
        )
        assert row
        kept = await connection.fetchrow("select * from graphiti_jobs where job_id = $1", row["job_id"])
        assert kept
        assert (kept["status"], kept["enqueued_at"], kept["submitted_by"]) == (status, row["enqueued_at"], None)
        if status in {"committed", "failed"}:
            assert kept == row
    assert await connection.execute("delete from graphiti_jobs") == "DELETE 3"  # the running one stays


async def test_a_failed_job_may_be_queued_again_by_hand_and_a_cancelled_one_is_failed(connection: Connection) -> None:
    job = await submit(connection)
    await pick(connection)
    await connection.execute(OLD["FAIL"], job, "why")
    assert await connection.execute("update graphiti_jobs set status = 'queued' where job_id = $1", job) == "UPDATE 1"
    assert tuple(await watch(connection, job)) == ("queued", None, None, None, None)
    await connection.execute("select pushq.cancel($1)", await submit(connection))
    assert await connection.fetchval("select error from graphiti_jobs where status = 'failed'") == "cancelled"


async def test_the_recovery_scan_finds_the_ends_of_jobs_and_null_for_those_that_are_gone(
    connection: Connection,
) -> None:
    job, gone = await submit(connection), uuid4()
    for external in (job, gone, None):
        await connection.execute("insert into stage_3_queue (body, external_job_id) values ('{}', $1)", external)
    await connection.execute(OLD["STAGE_AGAIN"])
    await pick(connection)
    await connection.execute(OLD["COMMIT"], job, SUMMARY)
    rows = await connection.fetch(OLD["RECOVER"])
    assert [(row["external_job_id"], row["status"]) for row in rows] == [(job, "committed"), (gone, None)]


# Who may write -------------------------------------------------------------------------------------------------------


async def test_what_a_pool_holds_no_old_statement_changes(connection: Connection) -> None:
    pools, guests = await submit(connection), await submit(connection)
    await held_by_a_pool(connection, pools)
    await connection.execute(OLD["START"], guests)
    whole = "select * from pushq.jobs where id = $1"
    before = await connection.fetchrow(whole, pools)

    assert await connection.execute(OLD["START"], pools) == "UPDATE 0"
    assert await connection.execute(OLD["COMMIT"], pools, SUMMARY) == "UPDATE 0"
    assert await connection.execute(OLD["FAIL"], pools, "why") == "UPDATE 0"
    assert await connection.execute("delete from graphiti_jobs where job_id = $1", pools) == "DELETE 0"
    assert await connection.execute(OLD["RESUME"]) == "UPDATE 1"
    assert await connection.fetchrow(whole, pools) == before
    assert (await watch(connection, guests))["started_at"] is None
    assert await pick(connection) == guests
    assert await connection.fetchval("select crashes from pushq.jobs where id = $1", guests) == 0


async def test_guests_of_other_languages_are_not_old_workers(connection: Connection) -> None:
    job = await submit(connection)
    await connection.fetch("select * from pushq.take_next('ingest', 'node 1')")
    assert await connection.execute(OLD["RESUME"]) == "UPDATE 0"
    assert await connection.execute(OLD["COMMIT"], job, SUMMARY) == "UPDATE 0"


async def test_an_end_counts_once_and_not_for_a_job_that_nobody_has_started(connection: Connection) -> None:
    job = await submit(connection)
    assert await connection.execute(OLD["COMMIT"], job, SUMMARY) == "UPDATE 0"
    await pick(connection)
    assert await connection.execute(OLD["COMMIT"], job, SUMMARY) == "UPDATE 1"
    assert await connection.execute(OLD["COMMIT"], job, SUMMARY) == "UPDATE 0"
    assert await connection.execute(OLD["FAIL"], job, "late") == "UPDATE 0"
    assert await connection.execute(OLD["COMMIT"], uuid4(), SUMMARY) == "UPDATE 0"


async def test_an_old_worker_that_dies_loses_its_job_for_a_crash_and_its_late_end_changes_nothing(
    connection: Connection, database_url: str
) -> None:
    job = await submit(connection)
    worker = await asyncpg.connect(database_url, server_settings={"application_name": "old 7"})
    await worker.execute("set graphiti.lease = '300 ms'")
    assert await pick(worker) == job
    name = await connection.fetchval("select name from pushq.supervisors")
    assert name == f"guest:graphiti old 7 {job}"
    worker.terminate()

    await sweep_until_queued(database_url, connection, job)
    assert await connection.execute(OLD["COMMIT"], job, SUMMARY) == "UPDATE 0"
    assert await pick(connection) == job
    assert await connection.fetchval("select crashes from pushq.jobs where id = $1", job) == 1
    assert await connection.execute(OLD["COMMIT"], job, SUMMARY) == "UPDATE 1"


async def sweep_until_queued(url: str, connection: Connection, job: UUID) -> None:
    """As any supervisor does."""
    session = Session(url, "test")
    sweeper = Sweeper(Store(session), retention=604800)

    async def look() -> bool:
        await sweeper.sweep()
        return bool((await watch(connection, job))["status"] == "queued")

    await eventually(look)
    await session.close()


async def test_old_workers_that_look_and_start_without_a_transaction_start_each_job_once(
    connection: Connection, crowd: list[Connection]
) -> None:
    job = await submit(connection)
    started = await asyncio.gather(*(worker.execute(OLD["START"], job) for worker in crowd))
    assert sorted(started) == ["UPDATE 0"] * 9 + ["UPDATE 1"]


async def test_of_many_that_submit_one_id_at_once_one_does(connection: Connection, crowd: list[Connection]) -> None:
    async def submitted(worker: Connection, job: UUID) -> str:
        try:
            await worker.execute(OLD["SUBMIT"], job, "single", '{"episodes": []}', "ada")
        except asyncpg.UniqueViolationError:
            return "refused"
        if await worker.execute(OLD["START"], job) == "UPDATE 1":  # and ends, while others are still submitting
            await worker.execute(OLD["COMMIT"], job, SUMMARY)
        return "submitted"

    for _ in range(20):
        job = uuid4()
        told = await asyncio.gather(*(submitted(worker, job) for worker in crowd))
        assert sorted(told) == ["refused"] * 9 + ["submitted"]
    assert await connection.fetchval("select count(*) from graphiti_jobs") == 20


async def test_one_that_waits_for_an_id_whose_job_ends_meanwhile_is_refused(crowd: list[Connection]) -> None:
    first, second, onlooker, *_ = crowd
    given = (uuid4(), "single", '{"episodes": []}', "ada")
    async with first.transaction():
        await first.execute(OLD["SUBMIT"], *given)
        waiting = asyncio.ensure_future(second.execute(OLD["SUBMIT"], *given))
        await eventually(
            lambda: onlooker.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
        )
        await first.execute(OLD["START"], given[0])
        await first.execute(OLD["COMMIT"], given[0], SUMMARY)
    with pytest.raises(asyncpg.UniqueViolationError):
        await waiting


@pytest.fixture
async def crowd(database_url: str) -> AsyncIterator[list[Connection]]:
    connections = await asyncio.gather(*(asyncpg.connect(database_url) for _ in range(10)))
    yield connections
    for one in connections:
        await one.close(timeout=5)


# With pushq's pools --------------------------------------------------------------------------------------------------


async def test_ten_old_workers_and_pools_of_which_one_is_killed_run_each_job_once(
    connection: Connection, database_url: str, crowd: list[Connection]
) -> None:
    by_old_workers: list[UUID] = []

    async def work(worker: Connection) -> None:
        while job := await pick(worker):
            by_old_workers.append(job)
            await asyncio.sleep(0.02)
            assert await worker.execute(OLD["COMMIT"], job, '{"by": "an old worker"}') == "UPDATE 1"

    with supervising_example(database_url, EXAMPLE, "--queue", "ingest", "--concurrency", "4") as killed:
        refused = await submit(connection, "bulk", fail="no graph")
        await has_status(connection, refused, "failed")
        long = await submit(connection, "bulk", seconds=30)
        await has_status(connection, long, "running")
        jobs = {await submit(connection, seconds=0.05) for _ in range(100)}
        await asyncio.gather(*map(work, crowd))
        killed.kill_all()
    assert await connection.execute(OLD["RESUME"]) == "UPDATE 0"
    assert (await watch(connection, long))["status"] == "running"
    await connection.execute("update pushq.jobs set payload = '{\"episodes\": [1]}' where id = $1", long)
    with supervising_example(database_url, EXAMPLE, "--queue", "ingest"):
        await has_count(connection, 102, "finished_on < 'infinity'")

    rows = await connection.fetch("select id, attempt, crashes, result from pushq.jobs where status = 'succeeded'")
    assert {row["id"] for row in rows} == jobs | {long}
    assert [row for row in rows if row["attempt"] != 1 + row["crashes"]] == []
    assert 0 < sum(row["crashes"] for row in rows) <= 4
    noted = {row["id"] for row in rows if row["result"] == '{"by": "an old worker"}'}
    assert sorted(by_old_workers) == sorted(noted)
    assert 0 < len(noted) < 100
    results = [json.loads(row["result"]) for row in rows if row["id"] not in noted]
    assert results == [json.loads(SUMMARY)] * len(results)
    row = await watch(connection, refused)
    assert (row["error"], row["summary"]) == ("RuntimeError: no graph", None)


# How it is found -----------------------------------------------------------------------------------------------------


async def test_each_poll_of_the_app_reads_by_an_index_and_sorts_nothing(connection: Connection) -> None:
    await connection.execute(
        """
        insert into pushq.jobs (task, queue, payload, enqueued_at)
        select 'ingest.single', 'ingest', '{"episodes": []}', now() - interval '1 s' * n
        from generate_series(1, 1500) as n;
        insert into pushq.jobs (task, queue, status, started_at, finished_at, finished_on, result)
        select 'ingest.bulk', 'ingest', 'succeeded', now(), now(), pushq.current_day(), '{"nodes": 1}'
        from generate_series(1, 3000);
        insert into pushq.jobs (task) select 'other' from generate_series(1, 1500);
        insert into stage_3_queue (body, external_job_id) select '{}', id from pushq.jobs limit 3
        """
    )
    jobs = await connection.fetch("select job_id from graphiti_jobs where status = 'queued' limit 2")
    job, other = [row["job_id"] for row in jobs]
    for _ in range(2):  # without statistics, and with
        for statement, *given in (
            ("PICK",),
            ("WATCH", job),
            ("RECOVER",),
            ("START", job),
            ("RESUME",),
            ("START", job),
            ("COMMIT", job, SUMMARY),
        ):
            assert await most_rows_read(connection, OLD[statement], *given) <= 10, statement
        await connection.execute("analyze pushq.jobs")
        job = other


async def most_rows_read(connection: Connection, statement: str, *given: Any) -> float:
    """By any part of the plan, those that it passed over included. The statement is done."""
    (plan,) = json.loads(await connection.fetchval(f"explain (analyze, format json) {statement}", *given))

    def read_by(node: dict[str, Any]) -> float:
        passed_over = sum(rows for name, rows in node.items() if name.startswith("Rows Removed"))
        own = (node["Actual Rows"] + passed_over) * node["Actual Loops"]
        return float(max([own, *map(read_by, node.get("Plans", []))]))

    return read_by(plan["Plan"])


# In and out ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def old_table(migrated: Connection) -> list[tuple[Any, ...]]:
    """The rows that were in the table before: of each status, of long ago, without a name, without an object."""
    await migrated.execute(OLD["OLD"])
    await migrated.execute(
        """
        insert into graphiti_jobs
        select
            gen_random_uuid(), case n % 2 when 0 then 'bulk' else 'single' end, jsonb_build_object('n', n), status,
            at, case when status <> 'queued' then at + interval '1 s' end,
            case when status in ('committed', 'failed') then at + interval '1 min' end,
            case status when 'failed' then 'why ' || n end, case status when 'committed' then '{"nodes": 2}'::jsonb end,
            case when n % 3 > 0 then 'ada' end
        from generate_series(1, 40) as n
        cross join lateral (
            select
                (array['queued', 'running', 'committed', 'failed'])[1 + n % 4] as status,
                now() - n * interval '9 days' as at
        ) as given;
        insert into graphiti_jobs (job_id, job_type, payload, status, finished_at)
        values (gen_random_uuid(), 'bulk', '[1]', 'committed', now());
        insert into stage_3_queue (body, external_job_id) select '{}', job_id from graphiti_jobs
        """
    )
    return await rows_of(migrated)


async def test_the_rows_move_in_and_come_back_each_as_it_was(
    migrated: Connection, migrated_url: str, old_table: list[tuple[Any, ...]]
) -> None:
    interrupted = {row[0] for row in old_table if row[3] == "running"}
    resumed = [(*row[:3], "queued", row[4], None, *row[6:]) if row[0] in interrupted else row for row in old_table]
    definition = await defined(migrated)
    reader = f"reader_{uuid4().hex[:8]}"
    await migrated.execute(f"create role {reader}; grant select on graphiti_jobs to {reader}")
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")
    assert await rows_of(migrated) == resumed
    assert await migrated.fetchval(f"select has_table_privilege('{reader}', 'graphiti_jobs', 'select')")
    assert await migrated.fetchval("select count(*) from graphiti_jobs_before_pushq") == 0
    assert await migrated.fetchval("select count(*) from pushq.tally_log") == 0
    assert await faults(migrated_url) == []
    with pytest.raises(asyncpg.UniqueViolationError):
        await migrated.execute(OLD["SUBMIT"], old_table[2][0], "bulk", "{}", None)

    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql", "schema.sql", "move.sql")
    assert await rows_of(migrated) == resumed
    assert await migrated.fetchval("select status from graphiti_jobs where job_id = $1", await pick(migrated))
    running = await pick(migrated)
    assert await migrated.execute(OLD["COMMIT"], running, SUMMARY) == "UPDATE 1"
    new = await submit(migrated)
    now = await rows_of(migrated)

    await migrated.execute("insert into pushq.jobs (task, queue) values ('others', 'default')")
    await apply(migrated_url, EXAMPLE, "back.sql")
    (once_more,) = [row for row in now if row[3] == "running"]
    back = [(*row[:3], "queued", row[4], None, *row[6:]) if row == once_more else row for row in now]
    assert await rows_of(migrated) == back
    assert new in {row[0] for row in back}
    assert await migrated.fetchval("select count(*) from pushq.supervisors") == 0
    assert [row["task"] for row in await migrated.fetch("select task from pushq.jobs")] == ["others"]
    assert await defined(migrated) == definition
    assert await migrated.fetchval(f"select has_table_privilege('{reader}', 'graphiti_jobs', 'select')")
    assert await faults(migrated_url) == []
    await apply(migrated_url, EXAMPLE, "back.sql")
    assert await rows_of(migrated) == back
    await migrated.execute(OLD["OLD"])
    await migrated.execute(f"drop owned by {reader}; drop role {reader}")


async def defined(connection: Connection) -> list[Any]:
    """The table as pg_dump would say."""
    parts = """
        select pg_get_indexdef(indexrelid) as part from pg_index where indrelid = to_regclass('graphiti_jobs')
        union all
        select conname || ' ' || pg_get_constraintdef(oid)
        from pg_constraint where conrelid = to_regclass('graphiti_jobs')
        union all
        select concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
        from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attrelid = to_regclass('graphiti_jobs') and attnum > 0
        order by part
    """
    return [row["part"] for row in await connection.fetch(parts)]


async def test_without_an_old_table_the_way_back_makes_the_old_table_and_psql_runs_the_files(
    migrated: Connection, migrated_url: str, server_bin_directory: Path
) -> None:
    shell = Shell(migrated_url, server_bin_directory, EXAMPLES / EXAMPLE)
    psql = 'psql -qX -v ON_ERROR_STOP=1 "$PUSHQ_DATABASE_URL"'
    await migrated.execute(f"set search_path = public; {OLD['OLD']}")
    definition = await defined(migrated)
    await migrated.execute("drop table graphiti_jobs")
    catalogue = "select count(*) from pg_class where relnamespace = 'pushq'::regnamespace and relkind not in ('i', 'I')"
    before = await migrated.fetchval(catalogue)
    assert shell.run(f"{psql} -f schema.sql -f move.sql -f schema.sql") == ""
    assert await migrated.fetchval(catalogue) == before
    job = await submit(migrated)
    assert shell.run(f"{psql} -f back.sql -f back.sql") == ""
    assert [row[0] for row in await rows_of(migrated)] == [job]
    assert await defined(migrated) == definition
    assert await migrated.fetchval(catalogue) == before
    assert await migrated.fetchval("select count(*) from pushq.jobs") == 0
    assert await migrated.fetchval("select count(*) from pg_proc where proname like 'graphiti%'") == 0


async def test_the_way_back_may_be_gone_while_all_work_and_no_job_is_lost(
    connection: Connection, database_url: str, crowd: list[Connection]
) -> None:
    await connection.execute("insert into pushq.jobs (task, queue) values ('others', 'default')")
    jobs = {await submit(connection, seconds=0.05) for _ in range(60)}

    async def work(worker: Connection) -> None:
        while job := await pick(worker):
            await asyncio.sleep(0.05)
            await worker.execute(OLD["COMMIT"], job, '{"by": "an old worker"}')

    with supervising_example(database_url, EXAMPLE, "--queue", "ingest", "--concurrency", "4"):
        await eventually(lambda: connection.fetchval("select count(*) > 5 from pushq.jobs where status = 'succeeded'"))
        working = asyncio.gather(*map(work, crowd[:4]))
        await eventually(lambda: connection.fetchval("select count(*) = 8 from pushq.jobs where status = 'running'"))
        await apply(database_url, EXAMPLE, "back.sql")
        await working  # upon the table: the old workers do the rest
    rows = await rows_of(connection)
    assert ({row[0] for row in rows}, {row[3] for row in rows}) == (jobs, {"committed"})
    assert {"by" in row[8] for row in rows} == {True, False}
    assert await connection.fetchval("select string_agg(task, '') from pushq.jobs") == "others"


async def test_who_had_rights_upon_the_table_alone_goes_on_with_the_view(
    migrated: Connection, migrated_url: str
) -> None:
    await migrated.execute(OLD["OLD"])
    app = f"app_{uuid4().hex[:8]}"
    schema = await migrated.fetchval("select current_schema()")
    await migrated.execute(
        f"create role {app}; grant usage on schema {schema} to {app};"
        f"grant select, insert, update on graphiti_jobs, stage_3_queue to {app}"
    )
    await apply(migrated_url, EXAMPLE, "schema.sql")
    await migrated.execute(f"set role {app}; set search_path = {schema}")
    job = await submit(migrated)
    assert await pick(migrated) == job
    assert await migrated.execute(OLD["RESUME"]) == "UPDATE 1"
    assert await pick(migrated) == job
    assert await migrated.execute(OLD["COMMIT"], job, SUMMARY) == "UPDATE 1"
    assert (await watch(migrated, job))["status"] == "committed"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await migrated.execute("select * from pushq.jobs")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await migrated.execute("delete from graphiti_jobs")
    await migrated.execute(f"reset role; drop owned by {app}; drop role {app}")


@pytest.mark.parametrize("body", [json.dumps({"episodes": ["x" * 1_100_000] * 3}), "[1, 2, 3]"], ids=["large", "array"])
async def test_a_body_that_pushq_does_not_take_is_kept_apart_and_nobody_sees_a_difference(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setenv("INGEST_DATABASE_URL", database_url)
    read = "select payload from graphiti_jobs where job_id = $1"
    by_hand, by_pool, deleted = uuid4(), uuid4(), uuid4()
    for job in (by_hand, by_pool, deleted):
        await connection.execute(OLD["SUBMIT"], job, "bulk", body, "ada")
        assert json.loads(await connection.fetchval(read, job)) == json.loads(body)
    assert await pick(connection) == by_hand
    assert await connection.execute(OLD["COMMIT"], by_hand, SUMMARY) == "UPDATE 1"
    await connection.execute("delete from graphiti_jobs where job_id = $1", deleted)
    with supervising_example(database_url, EXAMPLE, "--queue", "ingest"):
        await has_status(connection, by_pool, "committed")

    assert json.loads((await watch(connection, by_pool))["summary"])["episodes"] == 3
    assert json.loads(await connection.fetchval(read, by_pool)) == json.loads(body)
    assert {row["job_id"] for row in await connection.fetch("select job_id from graphiti_bodies")} == {by_hand, by_pool}


async def test_bodies_that_pushq_does_not_take_move_and_come_back(migrated: Connection, migrated_url: str) -> None:
    await migrated.execute(OLD["OLD"])
    large, array = uuid4(), uuid4()
    for job, body in ((large, json.dumps({"a": "x" * 2_000_000})), (array, "[1]")):
        await migrated.execute(
            "insert into graphiti_jobs (job_id, job_type, payload) values ($1, 'bulk', $2)", job, body
        )
    before = await rows_of(migrated)
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")
    assert await rows_of(migrated, "graphiti_jobs_before_pushq") == []
    assert await rows_of(migrated) == before
    await apply(migrated_url, EXAMPLE, "back.sql")
    assert await rows_of(migrated) == before


async def test_rows_that_pushq_would_refuse_stay_and_come_back(
    migrated: Connection, migrated_url: str, old_table: list[tuple[Any, ...]]
) -> None:
    stays, stranger = uuid4(), "x" * 201
    await migrated.execute(
        "insert into graphiti_jobs (job_id, job_type, payload, submitted_by) values ($1, 'bulk', '[1]', $2)",
        stays,
        stranger,
    )
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")
    assert await rows_of(migrated, "graphiti_jobs_before_pushq") != []
    assert len(await rows_of(migrated)) == len(old_table)
    await apply(migrated_url, EXAMPLE, "back.sql")
    assert len(await rows_of(migrated)) == len(old_table) + 1
    assert await migrated.fetchval("select payload from graphiti_jobs where job_id = $1", stays) == "[1]"


# The show ------------------------------------------------------------------------------------------------------------


def run(cwd: Path, url: str | None, *flags: str, until: str = "", **variables: str) -> tuple[int, str]:
    """The exit code of run.py, and what run.py said. until: a line at which Ctrl-C is pressed."""
    with subprocess.Popen(
        [sys.executable, EXAMPLES / EXAMPLE / "run.py", *flags],
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
        exit_code, told = run(tmp_path, None, "--concurrency", "1", TMPDIR=directory)
        assert exit_code == 0, told
        assert [*tmp_path.iterdir(), *Path(directory).iterdir()] == []
    said = re.sub(r"[0-9a-f-]{36}|\d+ ms", "…", told)
    assert "Submitted … in …, while no service runs." in said
    assert "the job is running, error None" in said
    assert 'asks again later: committed, {"edges": 2, "nodes": 3, "episodes": 1}' in said
    assert "is failed: RuntimeError: no such graph" in said
    assert float(re.findall(r"--concurrency 1: ([0-9.]+) s together", said)[0]) >= 1.2
    assert re.search(r"Twelve jobs: \d+ by an old worker, \d+ by the service, each once", said)
    assert "killed amid a job. The recovery scan: running, None" in said
    assert "done the job. The recovery scan: committed" in said


@pytest.mark.parametrize("server", ["oldest"], indirect=True)
async def test_the_show_ends_at_ctrl_c_and_leaves_no_row_in_a_database_that_is_given(
    migrated: Connection, migrated_url: str, tmp_path: Path
) -> None:
    exit_code, told = await asyncio.to_thread(run, tmp_path, migrated_url, until="The service has begun")
    assert exit_code == 130, told
    assert "nothing is left running" in told
    assert await migrated.fetchval("select count(*) from pushq.jobs") == 0
    assert await migrated.fetchval("select count(*) from stage_3_queue") == 0
