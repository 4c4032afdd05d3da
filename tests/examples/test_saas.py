"""docs/examples/saas: the app's old statements upon the view, beside a pool; tenants; the move and the way back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq import Tasks
from pushq.database.schema import faults
from tests.examples.files import EXAMPLES, apply, statements, supervising_example
from tests.support.jobs import Connection, insert
from tests.support.supervisors import environment, pushq
from tests.support.waiting import eventually

EXAMPLE = "saas"
OLD = statements(EXAMPLE)
CLAIM, ADD, DONE, AGAIN, FAILED = (OLD[name] for name in ("CLAIM", "ADD", "DONE", "AGAIN", "FAILED"))
NOBODY = "00000000-0000-4000-8000-000000000000"


@asynccontextmanager
async def session(url: str, role: str, tenant: UUID | str | None = None) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    await connection.execute(f"set role {role}")
    if tenant is not None:
        await connection.execute("select set_config('pushq.tenant_id', $1, false)", str(tenant))
    yield connection
    await connection.close()


@pytest.fixture
async def connection(connection: Connection) -> Connection:
    """The app's, which finds its own tenants, and not pushq's: docs/moving-in.md says why."""
    await connection.execute("set search_path = public")
    return connection


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Connection]:
    async with session(database_url, "service_role") as connection:
        yield connection


@pytest.fixture
async def acme(connection: Connection) -> UUID:
    return await a_tenant(connection, "acme")


async def a_tenant(connection: Connection, name: str) -> UUID:
    return UUID(str(await connection.fetchval("insert into tenants (name) values ($1) returning id", name)))


async def add(connection: Connection, tenant: UUID, kind: str = "ai_generate", **payload: object) -> UUID:
    return UUID(str(await connection.fetchval(ADD, tenant, kind, json.dumps(payload))))


async def claim(connection: Connection, worker: str) -> Any:
    return await connection.fetchrow(CLAIM.replace("%s", worker))


async def row_of(connection: Connection, job: UUID) -> Any:
    return await connection.fetchrow("select * from job_queue where id = $1", job)


async def rows_of(connection: Connection, table: str = "job_queue") -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(f"select * from {table} order by id")]


# The old statements -------------------------------------------------------------------------------------------------


async def test_the_view_has_the_columns_of_the_old_table(connection: Connection, migrated: Connection) -> None:
    shape = (
        "select attname, format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = to_regclass('job_queue') and attnum > 0 order by attnum"
    )
    await migrated.execute(f"set search_path = public; {OLD['OLD']}")
    assert await connection.fetch(shape) == await migrated.fetch(shape)
    labels = "select array_agg(enumlabel order by enumsortorder) from pg_enum where enumtypid = 'job_status'::regtype"
    assert await connection.fetchval(labels) == await migrated.fetchval(labels)


async def test_a_job_is_added_claimed_and_done_as_in_the_old_table(
    connection: Connection, service: Connection, acme: UUID
) -> None:
    job = await add(service, acme, prompt="hello")
    added = await row_of(service, job)
    assert tuple(added)[:9] == (job, acme, "ai_generate", "pending", '{"prompt": "hello"}', None, None, 0, None)
    assert added["completed_at"] is None

    claimed = await claim(service, "w1")
    assert claimed == await row_of(service, job)
    assert tuple(claimed)[:9] == (
        *(job, acme, "ai_generate", "processing", '{"prompt": "hello"}'),
        *(None, "w1", 1, None),
    )
    assert await claim(service, "w2") is None
    held = "select status, supervisor, host.lease from pushq.jobs join pushq.supervisors as host on name = supervisor"
    assert tuple(*await connection.fetch(held)) == ("running", "guest:w1", timedelta(hours=1))

    assert await service.execute(DONE, job, '{"text": "hi"}') == "UPDATE 1"
    done = await row_of(service, job)
    assert tuple(done)[3:9] == ("completed", '{"prompt": "hello"}', '{"text": "hi"}', "w1", 1, None)
    assert done["completed_at"] > added["created_at"]
    assert await connection.fetchval("select count(*) from pushq.supervisors") == 0


async def test_a_job_is_tried_again_at_the_time_that_the_worker_writes_and_fails_for_good(
    service: Connection, acme: UUID
) -> None:
    job = await add(service, acme)
    await claim(service, "w1")
    again = await service.fetchrow(AGAIN.replace(";", " returning *, now() + interval '1 hour' as at"), job)
    assert again is not None
    assert (again["status"], again["attempts"], again["next_retry_at"]) == ("pending", 1, again["at"])
    assert tuple(again)[:11] == tuple(await row_of(service, job))

    # The old table's claim does not look at next_retry_at, and goes on as before.
    assert (await claim(service, "w2"))["attempts"] == 2
    assert await service.execute(FAILED, job) == "UPDATE 1"
    failed = await row_of(service, job)
    assert (failed["status"], failed["attempts"]) == ("failed", 2)
    assert failed["completed_at"] is not None
    for late in (FAILED, AGAIN):
        assert await service.execute(late, job) == "UPDATE 0"
    assert await service.execute(DONE, job, None) == "UPDATE 0"
    assert await row_of(service, job) == failed


async def test_attempts_that_the_app_writes_are_ignored_and_a_reset_is_no_failure(
    connection: Connection, service: Connection, acme: UUID
) -> None:
    job = await add(service, acme)
    await claim(service, "w1")
    reset = "update job_queue set status = 'pending' where status = 'processing' and worker_id = 'w1'"
    assert await service.execute(reset) == "UPDATE 1"
    assert await connection.fetchval("select failures from pushq.jobs") == 0
    await claim(service, "w1")
    written = "update job_queue set status = 'pending', attempts = 99 where id = $1 returning attempts, next_retry_at"
    assert (await service.fetchrow(written, job))["attempts"] == 2  # type: ignore[index]
    assert await connection.fetchval("select failures from pushq.jobs") == 1


async def test_a_worker_that_writes_progress_keeps_its_job_and_nobody_else_gets_it(
    connection: Connection, service: Connection, acme: UUID
) -> None:
    job = await add(service, acme)
    await claim(service, "w1")
    await connection.execute("update pushq.supervisors set lease_until = now(), pid = -1")
    progress = "update job_queue set result = '{\"done\": 50}' where id = $1 returning result"
    assert await service.fetchval(progress, job) == '{"done": 50}'
    assert await connection.fetchval("select pid = 0 and lease_until > now() + '50 min' from pushq.supervisors")
    stolen = "update job_queue set status = 'processing', worker_id = 'w2' where id = $1"
    assert await service.execute(stolen, job) == "UPDATE 0"
    for column, value in (("payload", "'{}'"), ("type", "'x'"), ("tenant_id", "gen_random_uuid()")):
        await add(service, acme, n=1)
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="stay as they are"):
            await service.execute(
                f"update job_queue set {column} = {value}, status = 'processing' where payload <> '{{}}'"
            )


@pytest.mark.parametrize(
    ("columns", "values", "code"),
    [
        ("tenant_id, type", f"'{NOBODY}', 'x'", "23503"),
        ("type", "'x'", "23502"),
        ("tenant_id", "(select id from tenants)", "23502"),
        ("tenant_id, type, payload", "(select id from tenants), 'x', null", "23502"),
        ("tenant_id, type, status", "(select id from tenants), 'x', null", "23502"),
        ("tenant_id, type", "'acme', 'x'", "22P02"),
        ("tenant_id, type, status", "(select id from tenants), 'x', 'queued'", "22P02"),
        ("tenant_id, type, payload", "(select id from tenants), 'x', '{'", "22P02"),
        ("tenant_id, type, payload", "(select id from tenants), 'x', '[]'", "23514"),
        ("tenant_id, type, status", "(select id from tenants), 'x', 'completed'", "0A000"),
    ],
)
async def test_a_wrong_row_is_refused_with_the_code_of_the_old_table(
    service: Connection, acme: UUID, columns: str, values: str, code: str
) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await service.execute(f"insert into job_queue ({columns}) values ({values})")
    assert caught.value.sqlstate == code
    assert await service.fetchval("select count(*) from job_queue where tenant_id = $1", acme) == 0


async def test_an_id_is_unique_among_finished_jobs_too(service: Connection, acme: UUID) -> None:
    one, insert_again = await add(service, acme), "insert into job_queue (id, tenant_id, type) values ($1, $2, 'x')"
    with pytest.raises(asyncpg.UniqueViolationError):
        await service.execute(insert_again, one, acme)
    await claim(service, "w1")
    await service.execute(DONE, one, None)
    with pytest.raises(asyncpg.UniqueViolationError, match="job_queue_pkey"):
        await service.execute(insert_again, one, acme)


async def test_a_deleted_job_is_gone_whatever_its_status_and_a_late_outcome_counts_for_nothing(
    connection: Connection, service: Connection, acme: UUID
) -> None:
    queued, running, done = [await add(service, acme, n=n) for n in range(3)][::-1]
    assert (await claim(service, "w1"))["id"] == done
    await service.execute(DONE, done, None)
    assert (await claim(service, "w1"))["id"] == running
    for job in (queued, running, done):
        assert await service.execute("delete from job_queue where id = $1", job) == "DELETE 1"
        assert await service.execute("delete from job_queue where id = $1", job) == "DELETE 0"
    assert await service.execute(DONE, running, None) == "UPDATE 0"
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0
    assert await connection.fetchval("select count(*) from pushq.supervisors") == 0


# Workers ------------------------------------------------------------------------------------------------------------


async def test_ten_old_workers_and_a_pool_run_each_job_once(
    connection: Connection, database_url: str, service: Connection, acme: UUID
) -> None:
    for _ in range(100):
        await add(service, acme, seconds=0.01)
    by_pool = await add(service, acme, "video_ingest", url="x", failures=2)
    worked: list[UUID] = []

    async def old_worker(name: str) -> None:
        async with session(database_url, "service_role") as worker:
            while job := await claim(worker, name):
                worked.append(job["id"])
                await asyncio.sleep(0.01)
                assert await worker.execute(DONE, job["id"], f'{{"by": "{name}"}}') == "UPDATE 1"

    with supervising_example(database_url, EXAMPLE, "--queue=job_queue", "--concurrency=4"):
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(old_worker(f"old-{number}"))
        rows = await eventually(lambda: _completed(service, 101), within=20)
        by_workers = Counter(row["worker_id"] for row in rows if row["worker_id"].startswith("old-"))
        assert len(worked) == len(set(worked)) == sum(by_workers.values())
        assert len(rows) - len(worked) > 0, "The pool had its share."
        assert {row["attempts"] for row in rows if row["id"] != by_pool} == {1}

        # Negative control: the pool's retries, 300 ms apart, and its refusal.
        if by_pool not in worked:
            assert (await row_of(service, by_pool))["attempts"] == 3
        tenant = str(acme)
        retried = await add(service, acme, url="x", failures=1)
        for_good = await add(service, acme, prompt="x", failures=9)
        await eventually(lambda: _completed(service, 102))
        row = await row_of(service, retried)
        assert json.loads(row["result"]) == {"tenant": tenant, "attempt": 2}
        assert row["attempts"] == 2
        assert row["next_retry_at"] - row["created_at"] >= timedelta(seconds=0.3)
        await eventually(lambda: _has_status(service, for_good, "failed"))
        assert (await row_of(service, for_good))["attempts"] == 3
    assert await connection.fetchval("select count(*) from pushq.supervisors where pid <= 0") == 0


def test_handlers_have_three_attempts_300_ms_apart() -> None:
    tasks: Tasks = _module("tasks").tasks
    assert tasks.names == ("ai_generate", "video_ingest")
    for task in tasks:
        assert (task.queue, task.max_attempts) == ("job_queue", 3)
        assert {task.backoff(failures) for failures in (1, 2)} == {timedelta(milliseconds=300)}


def _module(name: str) -> ModuleType:
    spec = spec_from_file_location(f"saas_{name}", EXAMPLES / EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _completed(connection: Connection, count: int) -> list[Any]:
    rows = await connection.fetch("select * from job_queue where status = 'completed'")
    return rows if len(rows) == count else []


async def _has_status(connection: Connection, job: UUID, status: str) -> bool:
    return bool((await row_of(connection, job))["status"] == status)


async def test_an_old_worker_changes_nothing_of_a_job_that_a_pool_or_another_guest_holds(
    connection: Connection, service: Connection, acme: UUID
) -> None:
    job = await add(service, acme)
    await connection.execute(
        """
        insert into pushq.supervisors (name, host, pid, lease, lease_until)
        values ('pool', 'here', 1, '1 min', now() + interval '1 min'), ('guest:' || $1, 'guest', 0, '1 h', now())
        """,
        str(job),
    )
    for holder in ("pool", f"guest:{job}"):  # the second: a job that a handler has detached
        await connection.execute(
            "update pushq.jobs set status = 'running', supervisor = $1, pool = 0, started_at = now(), "
            "token = gen_random_uuid()",
            holder,
        )
        before = await connection.fetchrow("select * from pushq.jobs")
        assert await claim(service, "w1") is None
        assert await service.execute(DONE, job, "{}") == "UPDATE 0"
        for late in (AGAIN, FAILED):
            assert await service.execute(late, job) == "UPDATE 0"
        steal = "update job_queue set status = 'processing', worker_id = 'w1' where id = $1"
        assert await service.execute(steal, job) == "UPDATE 0"
        assert await connection.fetchrow("select * from pushq.jobs") == before

    await connection.execute("update pushq.jobs set status = 'queued', token = null")
    before = await connection.fetchrow("select * from pushq.jobs")
    for early in (AGAIN, FAILED):
        assert await service.execute(early, job) == "UPDATE 0"
    assert await service.execute(DONE, job, None) == "UPDATE 0"
    assert await connection.fetchrow("select * from pushq.jobs") == before


async def test_the_job_of_an_old_worker_that_dies_goes_on_after_its_lease(
    connection: Connection, database_url: str, service: Connection, acme: UUID
) -> None:
    await service.execute("set job_queue.lease = '0.2 s'")
    job = await add(service, acme)
    await claim(service, "dead")
    settings = {"LEASE": "0.3", "HEARTBEAT_INTERVAL": "0.1", "SWEEP_INTERVAL": "0.1"}

    async def sweep_until_queued() -> bool:
        await asyncio.to_thread(pushq, "sweep", url=database_url, **settings)
        return await _has_status(service, job, "pending")

    await eventually(sweep_until_queued, within=20)
    assert await service.execute(DONE, job, "{}") == "UPDATE 0"
    assert (await claim(service, "alive"))["attempts"] == 2
    assert await connection.fetchval("select crashes from pushq.jobs") == 1
    assert await service.execute(DONE, job, "{}") == "UPDATE 1"


# Tenants ------------------------------------------------------------------------------------------------------------


async def test_a_tenant_reads_and_inserts_its_own_jobs_and_nothing_else(
    connection: Connection, database_url: str, acme: UUID, service: Connection
) -> None:
    globex = await a_tenant(connection, "globex")
    other = await add(service, globex, secret=1)
    async with session(database_url, "authenticated") as user:
        async with user.transaction():
            await user.execute(f"set local pushq.tenant_id = '{acme}'")
            own = await add(user, acme)
            assert [row[0] for row in await rows_of(user)] == [own]
            assert await user.fetchval("select count(*) from job_queue where id = $1", other) == 0
        assert await rows_of(user) == []
        for tenant in (acme, globex):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await add(user, tenant)

    async with session(database_url, "authenticated", acme) as user:
        for stranger in (str(globex), NOBODY, None):  # also one that is not there: nothing is learned
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await user.execute("insert into job_queue (tenant_id, type) values ($1, 'x')", stranger)
        for job in (own, other):
            for statement in (AGAIN, FAILED, "delete from job_queue where id = $1"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await user.execute(statement, job)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await claim(user, "w")
        for hidden in ("select * from tenants", "select token from pushq.jobs", "select * from pushq.jobs_unfinished"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await user.fetch(hidden)
    assert len(await rows_of(service)) == 2


async def test_the_super_admin_reads_and_inserts_for_all_and_changes_nothing(
    connection: Connection, database_url: str, acme: UUID
) -> None:
    globex = await a_tenant(connection, "globex")
    async with session(database_url, "super_admin") as admin:
        jobs = {await add(admin, acme), await add(admin, globex)}
        assert {row[0] for row in await rows_of(admin)} == jobs
        for statement in (CLAIM, "delete from job_queue", "delete from tenants", "update pushq.jobs set priority = 1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await admin.execute(statement)


async def test_a_tenant_s_jobs_go_with_the_tenant_running_and_finished_ones_too(
    connection: Connection, database_url: str, service: Connection, acme: UUID
) -> None:
    globex = await a_tenant(connection, "globex")
    kept = await add(service, globex)
    await connection.execute("update pushq.jobs set run_at = now() + interval '1 h'")
    with supervising_example(database_url, EXAMPLE, "--queue=job_queue"):
        done, running = await add(service, acme), await add(service, acme, seconds=600)
        await eventually(lambda: _has_status(service, done, "completed"))
        await eventually(lambda: _has_status(service, running, "processing"))
        await connection.execute(  # more than pushq.delete_tenant takes in a step
            "insert into pushq.jobs (task, queue, tenant_id, status, started_at, finished_at, finished_on) "
            "select 'x', 'job_queue', $1, 'failed', now(), now(), pushq.current_day() from generate_series(1, 5001)",
            str(acme),
        )
        assert await service.execute("delete from tenants where id = $1", acme) == "DELETE 1"
        assert [row[0] for row in await rows_of(service)] == [kept]
        assert await service.execute(DONE, running, None) == "UPDATE 0"
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await add(service, acme)
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="keeps its id"):
        await connection.execute("update tenants set id = gen_random_uuid()")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="truncate"):
        await connection.execute("truncate tenants")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="read committed"):
        async with connection.transaction(isolation="repeatable_read"):
            await connection.execute("delete from tenants")


async def test_of_a_tenant_that_is_deleted_while_others_insert_and_delete_nothing_is_left(
    connection: Connection, database_url: str, acme: UUID
) -> None:
    # An insert is open when two deletes come, and another insert comes after them.
    async with AsyncExitStack() as open_sessions:
        early, late, *deleters = [
            await open_sessions.enter_async_context(session(database_url, "service_role")) for _ in range(4)
        ]
        inserting = early.transaction()
        await inserting.start()
        await add(early, acme)
        deletes = [asyncio.ensure_future(one.execute("delete from tenants where id = $1", acme)) for one in deleters]
        await eventually(lambda: _waiting(connection, 2))
        too_late = asyncio.ensure_future(add(late, acme))
        await inserting.commit()
        assert sorted(await asyncio.gather(*deletes)) == ["DELETE 0", "DELETE 1"]
        (outcome,) = await asyncio.gather(too_late, return_exceptions=True)
        # It came before the delete had the lock, and went with the tenant, or after.
        assert isinstance(outcome, UUID | asyncpg.ForeignKeyViolationError)
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0


async def _waiting(connection: Connection, count: int) -> bool:
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return bool(await connection.fetchval(waiting) == count)


async def test_many_inserts_at_once_leave_no_job_of_a_tenant_that_is_gone(
    connection: Connection, database_url: str
) -> None:
    tenants = [await a_tenant(connection, f"t{number}") for number in range(8)]
    refused = 0

    async def insert_until_gone() -> None:
        nonlocal refused
        async with session(database_url, "super_admin") as inserter:
            for tenant in tenants:
                try:
                    for _ in range(200):
                        await add(inserter, tenant)
                except asyncpg.ForeignKeyViolationError:
                    refused += 1

    async def delete_all() -> None:
        async with session(database_url, "service_role") as deleter:
            for tenant in tenants:
                await eventually(lambda tenant=tenant: _has_jobs(deleter, tenant))  # type: ignore[misc]
                await deleter.execute("delete from tenants where id = $1", tenant)

    await asyncio.gather(delete_all(), *(insert_until_gone() for _ in range(3)))
    assert refused > 0
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0


async def _has_jobs(connection: Connection, tenant: UUID) -> bool:
    return bool(await connection.fetchval("select true from job_queue where tenant_id = $1 limit 1", tenant))


async def test_rows_of_the_queue_that_are_of_no_tenant_stop_nobody(
    connection: Connection, service: Connection, acme: UUID
) -> None:
    for owner in (None, "acme", str(acme).upper(), f"{acme}x", "é" * 36):
        await insert(connection, "ai_generate", queue="job_queue", tenant_id=owner)
    job = await add(service, acme)
    assert [row[0] for row in await rows_of(service)] == [job]
    assert await service.fetchval("select count(*) from job_queue where tenant_id = $1", acme) == 1
    assert (await claim(service, "w1"))["id"] == job
    assert await claim(service, "w1") is None
    assert await connection.fetchval("select count(*) from pushq.jobs where status = 'queued'") == 5


async def test_the_view_has_the_rights_of_whoever_asks_and_its_functions_are_nobody_s_to_use(
    connection: Connection,
) -> None:
    assert await connection.fetchval("select reloptions from pg_class where relname = 'job_queue'") == [
        "security_invoker=true"
    ]
    functions = await connection.fetch(
        "select proname, prosecdef, proconfig, has_function_privilege('service_role', oid, 'execute') as may "
        "from pg_proc where proname like 'job\\_queue%'"
    )
    assert len(functions) == 6
    assert [one["proname"] for one in functions if not one["prosecdef"]] == ["job_queue_insert"]
    assert all(one["proconfig"] == ["search_path=pg_catalog, pg_temp"] and not one["may"] for one in functions)


async def test_a_host_that_grants_everything_new_to_its_api_grants_nothing_of_this(
    migrated: Connection, migrated_url: str
) -> None:
    await migrated.execute(
        "set search_path = public; alter default privileges in schema public grant all on tables to public;"
        "alter default privileges in schema public grant all on functions to public"
    )
    await apply(migrated_url, EXAMPLE, "schema.sql")
    for table in ("job_queue", "tenants"):
        granted = "select count(*) from information_schema.role_table_grants where table_name = $1 and grantee = $2"
        assert await migrated.fetchval(granted, table, "PUBLIC") == 0
        assert await migrated.fetchval(granted, table, "service_role") == 4
    may = "select has_table_privilege('authenticated', 'job_queue', 'update, delete')"
    assert not await migrated.fetchval(may)
    usable = (
        "select count(*) from pg_proc "
        "where proname like 'job\\_queue%' and has_function_privilege('authenticated', oid, 'execute')"
    )
    assert await migrated.fetchval(usable) == 0


async def test_a_claim_in_a_serializable_transaction_and_of_many_at_once(service: Connection, acme: UUID) -> None:
    for _ in range(3):
        await add(service, acme)
    async with service.transaction(isolation="serializable"):
        job = await claim(service, "w1")
        assert await service.execute(DONE, job["id"], "{}") == "UPDATE 1"
    many = "update job_queue set status = 'processing', worker_id = 'w2' where status = 'pending'"
    assert await service.execute(many) == "UPDATE 2"
    assert await service.execute("update job_queue set status = 'failed' where worker_id = 'w2'") == "UPDATE 2"


async def test_all_examples_stand_in_one_database_and_new_days_get_the_indexes(
    connection: Connection, database_url: str
) -> None:
    for other in sorted(path.parent.name for path in EXAMPLES.glob("*/schema.sql")):
        if (EXAMPLES / other / "back.sql").exists():
            await apply(database_url, other, "schema.sql", "move.sql")
    assert await faults(database_url) == []
    made = (
        "select count(*) from pg_class where relnamespace = 'pushq'::regnamespace and relkind <> 'I' and relname ~ $1"
    )
    assert await connection.fetchval(made, "^job_queue") == 0
    indexes = """
        select count(*) from pg_indexes
        where tablename = (select to_char(max(day), '"jobs_"YYYY_MM_DD') from pushq.days)
        and indexdef like '%job\\_queue%'
    """
    assert await connection.fetchval(indexes) == 4
    await connection.execute("select pushq.make_days(5)")
    assert await connection.fetchval(indexes) == 4


# Plans --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_a_claim_among_thousands_of_jobs_reads_an_index_and_sorts_nothing(
    connection: Connection, service: Connection, acme: UUID, is_analyzed: bool
) -> None:
    await connection.execute(
        """
        insert into pushq.jobs (task, queue, tenant_id, enqueued_at)
        select 'ai_generate', 'job_queue', $1, now() - number * interval '1 s' from generate_series(1, 4000) as number
        """,
        str(acme),
    )
    await connection.execute(
        """
        insert into pushq.jobs (task, queue, tenant_id, status, started_at, finished_at, finished_on)
        select 'ai_generate', 'job_queue', $1, 'succeeded', now(), now(), pushq.current_day()
        from generate_series(1, 4000)
        """,
        str(acme),
    )
    if is_analyzed:
        await connection.execute("analyze pushq.jobs")
    for role in ("service_role", "none"):
        await service.execute(f"set role {role}")
        plan = await _plan(service, CLAIM.replace("%s", "w1"))
        assert "Sort  (" not in plan
        assert "Seq Scan on jobs_unfinished" not in plan
        assert re.search("Index Scan using jobs_unfinished(_case)?_enqueued_at_idx", plan)
    await service.execute("set role service_role")
    for condition in (f"id = '{uuid4()}'", "type = 'x'", "status = 'failed'", f"tenant_id = '{NOBODY}'"):
        plan = await _plan(service, f"select * from job_queue where {condition} order by created_at desc limit 20")
        assert "Seq Scan on jobs_unfinished" not in plan, condition


async def _plan(connection: Connection, statement: str) -> str:
    return "\n".join(row[0] for row in await connection.fetch(f"explain {statement}"))


# The move -----------------------------------------------------------------------------------------------------------


OLD_ROWS = """
insert into tenants (id, name)
values ('11111111-1111-4111-8111-111111111111', 'acme'), (gen_random_uuid(), 'globex');
insert into job_queue (
    tenant_id, type, status, payload, result, worker_id, attempts, next_retry_at, created_at, completed_at)
select
    tenants.id, type, status::job_status, '{"n": 1}', case when status = 'completed' then '{"ok": null}'::jsonb end,
    case when status <> 'pending' then 'worker ' || attempts end, attempts,
    case when attempts > 0 then now() - age + interval '1 hour' end, now() - age,
    case when status in ('completed', 'failed') and attempts < 2 then now() - age + interval '1 min' end
from tenants, unnest('{ai_generate,video_ingest,other}'::text[]) as type,
    unnest('{pending,processing,completed,failed}'::text[]) as status, generate_series(0, 2) as attempts,
    unnest('{0 s,3 days,400 days}'::interval[]) as age;
insert into job_queue (tenant_id, type, status, payload, result, worker_id, completed_at)
select id, '', 'completed', '[1]', 'null', 'guest:x', now() from tenants;
"""
POLICIES = """
alter table job_queue enable row level security, force row level security;
create policy own on job_queue using (tenant_id is null);
"""


@pytest.fixture
async def old(migrated: Connection) -> list[tuple[Any, ...]]:
    """A database with the old table, its policies, and rows of all kinds."""
    await migrated.execute(f"set search_path = public; {OLD['OLD']} {OLD_ROWS}")
    rows = await rows_of(migrated)
    await migrated.execute(POLICIES)
    return rows


async def test_all_rows_move_and_come_back_as_they_were(
    migrated: Connection, migrated_url: str, old: list[tuple[Any, ...]]
) -> None:
    before = await defined(migrated)
    interrupted = [(*row[:3], "pending" if row[3] == "processing" else row[3], *row[4:]) for row in old]
    await apply(migrated_url, EXAMPLE, "schema.sql", "schema.sql", "move.sql", "schema.sql", "move.sql")
    await migrated.reload_schema_state()
    assert await rows_of(migrated) == interrupted
    assert await migrated.fetchval("select count(*) from job_queue_before_pushq") == 0
    assert await migrated.fetchval("select relforcerowsecurity from pg_class where relname = 'job_queue_before_pushq'")
    assert await faults(migrated_url) == []
    listed = await asyncio.to_thread(pushq, "jobs", "list", "--status=failed", url=migrated_url)
    assert listed.returncode == 0, listed.stderr

    # A finished row is kept for the retention from the move on, whatever its age.
    await migrated.execute("select pushq.retire_days('7 days')")
    assert await rows_of(migrated) == interrupted

    async with session(migrated_url, "service_role") as service:
        acme = UUID("11111111-1111-4111-8111-111111111111")
        new, first = await add(service, acme, n=2), await claim(service, "w1")
        assert first["created_at"] == min(row[9] for row in interrupted if row[3] == "pending")
        after = await rows_of(service)
    await apply(migrated_url, EXAMPLE, "back.sql", "back.sql")
    await migrated.reload_schema_state()
    assert await rows_of(migrated) == after
    assert (await row_of(migrated, new))["status"] == "pending"
    assert await migrated.fetchval("select count(*) from pushq.jobs") == 0
    assert await defined(migrated) == before
    assert await migrated.fetchval("select count(*) from pg_proc where proname like 'job\\_queue%'") == 0
    assert await faults(migrated_url) == []
    # An old worker that holds a job goes on with the table.
    assert await migrated.execute(DONE, first["id"], "{}") == "UPDATE 1"
    after = await rows_of(migrated)
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")
    await migrated.reload_schema_state()
    assert await rows_of(migrated) == after


async def defined(connection: Connection) -> list[str]:
    """Constraints, indexes, policies, defaults and triggers of the tables."""
    parts = """
        select pg_get_indexdef(indexrelid) as part from pg_index where indrelid = 'job_queue'::regclass
        union all select conname || pg_get_constraintdef(oid) from pg_constraint where conrelid = 'job_queue'::regclass
        union all select concat_ws(' ', attname, atttypid::regtype, attnotnull, pg_get_expr(adbin, adrelid))
        from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attrelid = 'job_queue'::regclass and attnum > 0
        union all select polname from pg_policy where polrelid = 'job_queue'::regclass
        union all select concat(relrowsecurity, relforcerowsecurity) from pg_class where oid = 'job_queue'::regclass
        union all select tgname from pg_trigger where tgrelid = 'tenants'::regclass and not tgisinternal
        order by part
    """
    return [row["part"] for row in await connection.fetch(parts)]


async def test_without_an_old_table_the_way_back_makes_it(migrated: Connection, migrated_url: str) -> None:
    await migrated.execute(f"set search_path = public; {OLD['OLD']}")
    before = await defined(migrated)
    await migrated.execute("drop table job_queue, tenants; drop type job_status")
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")
    acme = await a_tenant(migrated, "acme")
    done, job = await add(migrated, acme), await add(migrated, acme)
    await claim(migrated, "w1")
    await migrated.execute(DONE, done, '{"n": 1}')
    rows = await rows_of(migrated)
    await apply(migrated_url, EXAMPLE, "back.sql")
    await migrated.reload_schema_state()
    assert await rows_of(migrated) == rows
    assert {row[0] for row in rows} == {done, job}
    assert await defined(migrated) == before


async def test_what_pushq_would_refuse_stays_and_comes_back(migrated: Connection, migrated_url: str) -> None:
    await migrated.execute(f"set search_path = public; {OLD['OLD']}")
    acme = await a_tenant(migrated, "acme")
    for payload in ("[1]", "{}", '"text"', json.dumps({"large": os.urandom(600_000).hex()})):
        await migrated.execute(ADD, acme, "x", payload)
    rows = await rows_of(migrated)
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql", "move.sql")
    await migrated.reload_schema_state()
    assert [row[4] for row in await rows_of(migrated)] == ["{}"]
    await apply(migrated_url, EXAMPLE, "back.sql")
    await migrated.reload_schema_state()
    assert await rows_of(migrated) == rows


async def test_the_way_back_may_be_gone_while_all_work_and_no_job_is_lost(
    connection: Connection, database_url: str, acme: UUID
) -> None:
    jobs = {await add(connection, acme, seconds=0.05) for _ in range(60)}

    async def work(name: str) -> None:
        async with session(database_url, "none") as worker:
            while job := await claim(worker, name):
                await asyncio.sleep(0.05)
                assert await worker.execute(DONE, job["id"], '{"by": "an old worker"}') == "UPDATE 1"

    with supervising_example(database_url, EXAMPLE, "--queue=job_queue", "--concurrency=4"):
        completed = "select count(*) > 5 from pushq.jobs where status = 'succeeded'"
        await eventually(lambda: connection.fetchval(completed))
        working = asyncio.gather(*(work(f"w{number}") for number in range(4)))
        all_work = "select count(*) = 8 from pushq.jobs where status = 'running'"
        await eventually(lambda: connection.fetchval(all_work))
        await apply(database_url, EXAMPLE, "back.sql")
        await working  # upon the table: the old workers do the rest
    await connection.reload_schema_state()
    rows = await rows_of(connection)
    assert ({row[0] for row in rows}, {row[3] for row in rows}) == (jobs, {"completed"})
    assert {"by" in row[5] for row in rows} == {True, False}
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0
    assert await connection.fetchval("select count(*) from pushq.supervisors where pid <= 0") == 0


async def test_a_foreign_key_to_the_old_table_is_named_and_nothing_has_changed(
    migrated: Connection, migrated_url: str
) -> None:
    await migrated.execute(f"set search_path = public; {OLD['OLD']}")
    await migrated.execute("create table logs (job_id uuid references job_queue)")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as caught:
        await apply(migrated_url, EXAMPLE, "schema.sql")
    fixed = str(caught.value.hint).removeprefix("Run first: ")
    assert fixed == "alter table logs drop constraint logs_job_id_fkey;"
    await migrated.execute(fixed)
    await apply(migrated_url, EXAMPLE, "schema.sql")


# run.py -------------------------------------------------------------------------------------------------------------


def test_run_shows_it_on_a_server_of_its_own_and_ends() -> None:
    ran = _run_py()
    said, _ = ran.communicate(timeout=50)
    assert ran.returncode == 0, said
    for shown in ("tenants", "super_admin", "old workers", "retry", "deleted"):
        assert shown in said, said


@pytest.mark.parametrize("server", ["oldest"], indirect=True)
async def test_run_leaves_a_given_database_as_it_was(migrated: Connection, migrated_url: str) -> None:
    ran = _run_py(migrated_url)
    said, _ = await asyncio.to_thread(ran.communicate, timeout=50)
    assert ran.returncode == 0, said
    await nothing_is_left(migrated)


@pytest.mark.parametrize("server", ["server"], indirect=True)
async def test_run_ends_at_ctrl_c_without_a_traceback(migrated: Connection, migrated_url: str) -> None:
    ran = _run_py(migrated_url)
    assert ran.stdout is not None
    while "super_admin" not in await asyncio.to_thread(ran.stdout.readline):
        assert ran.poll() is None
    ran.send_signal(signal.SIGINT)
    said, _ = await asyncio.to_thread(ran.communicate, timeout=30)
    assert ran.returncode == 130, said
    assert "Traceback" not in said
    await nothing_is_left(migrated)


async def nothing_is_left(connection: Connection) -> None:
    for name in ("job_queue", "tenants"):
        assert await connection.fetchval("select to_regclass('public.' || $1) is null", name)
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0


@pytest.mark.parametrize("server", ["oldest"], indirect=True)
async def test_run_leaves_a_database_with_jobs_alone(
    connection: Connection, database_url: str, service: Connection, acme: UUID
) -> None:
    job = await add(service, acme)
    ran = _run_py(database_url)
    said, _ = await asyncio.to_thread(ran.communicate, timeout=50)
    assert (ran.returncode, "has jobs" in said) == (1, True)
    assert [row[0] for row in await rows_of(connection)] == [job]


def _run_py(url: str | None = None) -> subprocess.Popen[str]:
    program = [sys.executable, str(EXAMPLES / EXAMPLE / "run.py")]
    return subprocess.Popen(program, env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
