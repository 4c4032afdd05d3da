"""Who may do what is written down in golden_privileges.txt, and nothing else may be done."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from tests.security.privileges import privileges, with_tenants
from tests.support.jobs import Connection, insert
from tests.support.roles import LOGINS, Logins

GOLDEN = Path(__file__).with_name("golden_privileges.txt")
PRODUCERS = (
    "id", "task", "payload", "queue", "priority", "run_at", "max_attempts", "timeout", "unique_key", "tenant_id",
    "correlation_id", "submitted_by", "waiters", "webhook_url", "traceparent", "needs", "limit_key",
    "affinity",
)  # fmt: skip


async def test_everybody_may_do_what_is_written_down_and_nothing_else(connection: Connection, logins: Logins) -> None:
    """Where it may: read what is new there, and `python -m tests.security.privileges` writes it down."""
    assert await with_tenants(connection, logins) == GOLDEN.read_text()


LOOSENED = (
    "grant update (status) on pushq.jobs to {producer}",
    "grant insert (status) on pushq.jobs to {producer}",
    "grant select on pushq.jobs_unfinished to {producer}",
    "grant delete on pushq.days to {observer}",
    "grant references (id) on pushq.jobs to {bystander}",
    "grant usage on schema pushq to public",
    "grant create on schema pushq to {worker}",
    "grant update on sequence pushq.gate_7 to {producer}",
    "grant truncate on pushq.tallies to {worker}",
    "grant execute on function pushq.make_days(int) to public",
    "grant execute on function pushq.retire_days(interval) to {observer}",
    "grant {worker} to {producer}",
    "grant {group} to {worker} with admin option",
    "alter role {worker} bypassrls",
    "alter role {producer} createrole",
    "alter table pushq.tasks owner to {worker}",
    "alter function pushq.make_days(int) reset search_path",
    "alter function pushq.retire_days(interval) set search_path = public, pg_catalog",
    "alter function pushq.cancel(uuid, text) security invoker",
    "alter function pushq.retry(uuid, text) reset search_path",
    "alter default privileges in schema pushq grant select on tables to public",
    "alter default privileges grant execute on functions to {bystander}",
    "create view pushq.open_jobs as select * from pushq.jobs",
    "create table pushq.newcomer (); grant select on pushq.newcomer to {bystander}",
    "create function pushq.newcomer() returns int language sql security definer return 1",
    "create rule copied as on insert to pushq.queues do also notify other",
    "create trigger another after insert on pushq.jobs for each row execute function pushq.ring_for_inserted_job()",
    "drop trigger zz_check_job on pushq.jobs_unfinished",
    "alter table pushq.jobs enable row level security",
    "create policy open on pushq.jobs using (true)",
)


async def test_whatever_is_loosened_is_noticed(connection: Connection, logins: Logins) -> None:
    golden = await privileges(connection, logins)
    names = {login: logins.name(login) for login in LOGINS} | {"group": logins.group("worker")}
    for change in LOOSENED:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(change.format(**names))
        assert await privileges(connection, logins) != golden, change
        await transaction.rollback()
    assert await privileges(connection, logins) == golden


async def test_a_function_finds_no_name_where_its_caller_looks(connection: Connection) -> None:
    """It has a path of its own, or was understood when it was made, or is one of three that say pg_catalog."""
    looks_around = await connection.fetch(
        "select proname from pg_proc where pronamespace = 'pushq'::regnamespace and prosqlbody is null "
        "and not coalesce(proconfig @> '{\"search_path=pg_catalog, pg_temp\"}', false)"
    )
    assert {row["proname"] for row in looks_around} == {"check_job", "ring_bell", "ring_for_inserted_job"}


async def test_a_producer_writes_its_own_columns_and_none_of_ours(connection: Connection, logins: Logins) -> None:
    await insert(connection, "echo")
    every = [
        row["name"]
        for row in await connection.fetch(
            "select attname as name from pg_attribute where attrelid = 'pushq.jobs'::regclass and attnum > 0"
        )
    ]
    ours = set(every) - set(PRODUCERS)
    assert len(ours) == 19
    producer = await asyncpg.connect(logins.url_as("producer"))
    columns = ", ".join(PRODUCERS)
    values = (
        "gen_random_uuid(), 'echo', '{}', 'mail', 1, now(), 2, '1 s', 'key', 'tenant', 'trace', 'me', '{pushq_a}', "
        "'http://example.com', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', "
        "'{\"gpu\": 1}', 'cam7', 'resnet'"
    )
    assert await producer.fetchval(f"insert into pushq.jobs ({columns}) values ({values}) returning id")
    for column in ours:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await producer.execute(f"insert into pushq.jobs (task, {column}) values ('echo', default)")
    for column in every:
        for forbidden in (f"update pushq.jobs set {column} = default", f"select {column} from pushq.jobs for update"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await producer.execute(forbidden)
        if column != "id":
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await producer.execute(f"insert into pushq.jobs (task) values ('echo') returning {column}")
    await producer.close()


@pytest.mark.parametrize("login", ["producer", "bystander"])
async def test_what_may_not_be_read_or_changed_is_not_by_any_other_way(
    connection: Connection, logins: Logins, login: str
) -> None:
    await insert(connection, "echo")
    stranger = await asyncpg.connect(logins.url_as(login))
    for forbidden in (
        "copy pushq.jobs to stdout",
        "copy pushq.jobs_unfinished from stdin",
        "copy (select payload from pushq.jobs) to stdout",
        "merge into pushq.jobs using (values (1)) as one on true when matched then delete",
        "merge into pushq.jobs using (values (1)) as one on true when matched then update set task = 'x'",
        "table pushq.jobs",
        "create table mine () inherits (pushq.jobs)",
        "create temp table mine (like pushq.jobs_unfinished) partition by list (task)",
        "create trigger mine after insert on pushq.jobs for each row execute function pushq.ring_for_inserted_job()",
        "create rule mine as on insert to pushq.jobs do also notify mine",
        "create policy mine on pushq.jobs",
        "create publication mine for table pushq.jobs",
        "create statistics mine on id, task from pushq.jobs",
        "comment on table pushq.jobs is 'mine'",
        "alter table pushq.jobs disable trigger all",
        "alter table pushq.jobs_unfinished disable trigger zz_check_job",
        "create trigger mine before insert on pushq.jobs_unfinished for each row execute function pushq.check_job()",
        "analyze pushq.jobs_unfinished",
        "do $$ begin lock table pushq.jobs in access share mode; end $$",
        "create function pushq.mine() returns int language sql return 1",
        "alter function pushq.make_days(int) owner to current_user",
        "set role pg_write_all_data",
        "set session_replication_role = replica",
        "select setval('pushq.gate_0', 1)",
        "select nextval('pushq.gate_0')",
        "select pushq.retire_days('1 second')",
    ):
        assert await _is_refused(stranger, forbidden), forbidden
    await stranger.close()


async def _is_refused(stranger: Connection, statement: str) -> bool:
    warned: list[str] = []
    stranger.add_log_listener(lambda _, message: warned.append(str(message)))
    try:
        await stranger.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return any(re.search("permission denied|only .* can|skipping", warning) for warning in warned)
