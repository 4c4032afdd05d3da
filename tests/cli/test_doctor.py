"""pushq doctor: what hurts is found, with its remedy; a database that cannot be examined gets one sentence."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from pushq.desk.doctor import examine
from tests.support.commands import invoke
from tests.support.history import finish_in_the_past, sweeping, swept
from tests.support.jobs import Connection, insert
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

WEEK = 604_800.0
LONG_DUE = datetime(2026, 1, 1, tzinfo=UTC)
EXAMINED = [
    "server", "schema", "rights", "row security", "settings", "publications", "transactions", "notifications", "days",
    "listeners", "supervisors", "schedules", "jobs",
]  # fmt: skip


async def found(url: str) -> dict[str, tuple[str, str | None]]:
    """The findings by check, without what tests' own servers have: they are not durable."""
    return {
        one.check: (one.says, one.remedy)
        for one in await examine(url, WEEK)
        if not one.is_fine and not one.says.startswith(("fsync", "full_page_writes", "synchronous_commit"))
    }


async def test_a_database_as_new_is_fine_in_every_respect(database_url: str) -> None:
    assert await found(database_url) == {}

    ended = invoke("doctor", "--json", url=database_url)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert list(dict.fromkeys(row["check"] for row in rows)) == EXAMINED
    assert ended.exit_code == (0 if all(row["is_fine"] for row in rows) else 1)


HURT: dict[str, tuple[str, str, str, str]] = {
    "a function is gone": (
        "drop function pushq.pause(text)", "schema", "lacks function pause(text)", "`pushq migrate --sql`",
    ),
    "autovacuum is off for a table": (
        "alter table pushq.jobs_unfinished set (autovacuum_enabled = false)", "settings",
        "autovacuum_enabled of pushq.jobs_unfinished is off: the table grows", "reset (autovacuum_enabled)",
    ),
    "a publication stands in the way": (
        "alter table pushq.tally_log replica identity nothing; create publication everything for all tables",
        "publications", "publication 'everything' makes PostgreSQL refuse changes of tally_log",
        "take pushq's tables out of the publication",
    ),
    "a day is missing": (
        "select format('drop table pushq.jobs_%s', to_char(pushq.utc_today() + 1, 'YYYY_MM_DD')) as it \\gexec",
        "days", "no partition for ", "run `pushq sweep`",
    ),
    "a day is overdue": (
        "insert into pushq.days (day) values ('2001-01-01')", "days",
        "jobs past retention are still there, of 2001-01-01", "run `pushq sweep`",
    ),
    "a day was not dropped": (
        "insert into pushq.days (day, retired_at) values ('2001-01-01', now() - interval '2 days')", "days",
        "emptied partitions wait to be dropped, of 2001-01-01", "as the owner of the tables",
    ),
    "nobody is alive": (
        "insert into pushq.jobs (task, run_at) values ('x', now() - interval '1 min')", "supervisors",
        "jobs are due, and no supervisor is alive", "run `pushq supervise`",
    ),
    "a schedule cannot be read": (
        "insert into pushq.schedules (name, cron, task, error) values ('bad', 'x', 'y', 'it cannot be read.')",
        "schedules", "no job comes of bad: it cannot be read", "set its error to null",
    ),
    "a schedule is late": (
        "insert into pushq.schedules (name, cron, task, next_at) values ('late', 'x', 'y', now() - interval '5 min')",
        "schedules", "a slot has been due for 5 min, and no supervisor has inserted its job", "run `pushq supervise`",
    ),
    "the dead hold jobs": (
        """insert into pushq.jobs (task, status, token, supervisor, pool, started_at)
        values ('x', 'running', gen_random_uuid(), 'gone', 1, now())""",
        "supervisors", "jobs are held by the dead: gone", "requeues them after the lease",
    ),
}  # fmt: skip


async def test_a_day_that_the_rule_of_a_queue_holds_is_not_overdue(database_url: str, connection: Connection) -> None:
    await connection.execute("insert into pushq.days (day) values ('2001-01-01')")
    assert "days" in await found(database_url)
    await connection.execute("select pushq.keep('mail', '900 years')")
    assert "days" not in await found(database_url)


@pytest.mark.parametrize("table", ["jobs", "a day"])
@pytest.mark.parametrize("is_a_rule_for_all", [False, True])
async def test_a_trigger_that_keeps_jobs_from_the_purge_is_found_and_one_that_does_not_is_not(
    database_url: str, connection: Connection, table: str, is_a_rule_for_all: bool
) -> None:
    await finish_in_the_past(connection, 3, ago=timedelta(hours=4), queue="mail")
    await connection.execute(
        "create function public.keep_all() returns trigger language plpgsql as "
        "'begin if current_setting(''app.keeps'') = ''yes'' then return null; end if; return old; end'"
    )
    if table == "a day":
        table = await connection.fetchval("select to_char(pushq.current_day(), '\"jobs_\"YYYY_MM_DD')")
    await connection.execute(
        f"create trigger keeper before delete on pushq.{table} for each row execute function keep_all()"
    )
    database = await connection.fetchval("select quote_ident(current_database())")
    await connection.execute(f"alter database {database} set app.keeps = 'yes'")
    assert "days" not in await found(database_url)

    await connection.execute("select pushq.keep($1, '1 hour')", "*" if is_a_rule_for_all else "mail")
    async with sweeping(database_url) as sweeper:
        assert "a trigger or a row-level policy keeps 3 of 3" in (await sweeper.sweep()).troubles[0]
    says, remedy = (await found(database_url))["days"]
    assert "where keeper of yours runs before each DELETE" in says
    assert remedy
    assert "run `pushq sweep`" in remedy

    await connection.execute(f"alter database {database} set app.keeps = 'no'")
    await connection.execute("update pushq.purges set next_at = now()")
    assert await swept(database_url) == 3
    assert "days" not in await found(database_url)


@pytest.mark.parametrize("what", HURT)
async def test_what_hurts_is_found_with_its_remedy(database_url: str, connection: Connection, what: str) -> None:
    statement, check, says, remedy = HURT[what]
    if statement.endswith(r"\gexec"):
        statement = await connection.fetchval(statement.removesuffix(r"\gexec"))
    await connection.execute(statement)

    findings = await found(database_url)
    assert check in findings, findings
    assert says in findings[check][0]
    assert remedy in (findings[check][1] or "")


@pytest.mark.parametrize("setting", ["pushq.notify = 'off'", "default_transaction_read_only = on"])
async def test_a_setting_of_the_database_that_hurts_is_found(
    database_url: str, connection: Connection, setting: str
) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    await connection.execute(f'alter database "{name}" set {setting}')
    says, remedy = (await found(database_url))["settings"]
    assert says.startswith(setting.split(maxsplit=1)[0])
    assert remedy
    await connection.execute(f'set default_transaction_read_only = off; alter database "{name}" reset all')


async def test_an_old_transaction_is_found_with_its_pid(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushq.desk.doctor.LONG_TRANSACTION", 0.0)
    async with connection.transaction():
        pid = await connection.fetchval("select pg_backend_pid() from pushq.jobs right join (select 1) as one on true")
        says, remedy = (await found(database_url))["transactions"]
    assert says.startswith(f"transaction of pid {pid} (role ")
    assert "vacuum waits for it" in says
    assert remedy == f"select pg_terminate_backend({pid})"


async def test_jobs_that_no_living_supervisor_will_run_are_found_each_with_the_reason(
    database_url: str, connection: Connection
) -> None:
    await insert(connection, "ecko", 2, run_at=LONG_DUE)
    await insert(connection, "echo", queue="else", run_at=LONG_DUE)
    await insert(connection, "ecko", queue="later")
    await insert(connection, "ecko", queue="paused", run_at=LONG_DUE)
    await connection.execute("select pushq.pause('paused')")
    with supervising(database_url):
        says = {one.says: one.remedy for one in await examine(database_url, WEEK) if one.check == "jobs"}

    assert says.keys() == {
        "jobs of task 'ecko' wait in queue 'default': no supervisor has ever known a task 'ecko'; did you mean 'echo'?",
        "jobs of task 'echo' wait in queue 'else': the supervisors that know task 'echo' serve other queues: default",
    }
    assert all("`pushq jobs cancel --task ec" in str(remedy) for remedy in says.values())
    assert any("--queue else`" in str(remedy) for remedy in says.values())


async def test_a_deaf_pool_is_found(database_url: str, connection: Connection) -> None:
    with supervising(database_url) as supervisor:
        supervisor.wait_ready()
        assert "listeners" not in await found(database_url)
    name = f"vm-{'x' * 60}-4711-abcdef"
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ($1, '', 1, '1 h', now() + interval '1 h')", name,
    )  # fmt: skip
    async with _session(database_url, f"pushq pool 1 of vm-x..{name[-33:]}: claims"):

        async def look() -> tuple[str, str | None]:
            return (await found(database_url)).get("listeners", ("", None))

        await eventually(lambda: _is_found(look), within=30)
        says, remedy = await look()
    assert says == f"hear no notifications, and poll: pool 1 of {name}"
    assert "PUSHQ_LISTEN_DATABASE_URL" in (remedy or "")


async def _is_found(look: Callable[[], Awaitable[tuple[str, str | None]]]) -> bool:
    says, _ = await look()
    return bool(says)


@asynccontextmanager
async def _session(url: str, name: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url, server_settings={"application_name": name})
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_role_without_rights_is_told_what_it_lacks(database_url: str, connection: Connection) -> None:
    name = f"nobody_{uuid4().hex[:8]}"
    await connection.execute(f"create role {name} login password 'secret'; grant usage on schema pushq to {name}")
    await connection.execute(f"grant select on pushq.migrations to {name}")
    await connection.execute(f"grant execute on function pushq.schema_version() to {name}")
    parts = urlsplit(database_url)
    try:
        url = parts._replace(netloc=f"{name}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
        says, remedy = (await found(url))["rights"]
    finally:
        await connection.execute(f"drop owned by {name}; drop role {name}")
    assert says == "this role may do nothing with pushq"
    assert "`pushq migrate --roles`" in (remedy or "")


async def test_hidden_rows_are_a_finding(database_url: str, connection: Connection) -> None:
    name = f"hidden_{uuid4().hex[:8]}"
    await connection.execute(f"create role {name} login password 'secret'; grant usage on schema pushq to {name}")
    await connection.execute(f"grant select on all tables in schema pushq to {name}")
    await connection.execute("alter table pushq.queues enable row level security")
    parts = urlsplit(database_url)
    try:
        url = parts._replace(netloc=f"{name}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
        findings = await found(url)
    finally:
        await connection.execute(f"drop owned by {name}; drop role {name}")
    assert "hides the rows of queues from this role by row-level security" in findings["row security"][0]


async def test_people_read_a_line_a_check(database_url: str, connection: Connection) -> None:
    await insert(connection, "x")
    await connection.execute("update pushq.jobs_unfinished set run_at = now() - interval '1 h'")
    ended = invoke("doctor", url=database_url)
    assert "  ok  schema         is up to date\n" in ended.stdout
    assert "  !!  supervisors    jobs are due, and no supervisor is alive\n" in ended.stdout
    assert "→ run `pushq supervise`\n" in ended.stdout
    assert (ended.exit_code, ended.stderr) == (1, "")


async def test_an_empty_database_and_somebody_else_s_get_one_sentence(empty_database_url: str) -> None:
    ended = invoke("doctor", url=empty_database_url)
    assert "has no pushq schema; run `pushq migrate`." in ended.stderr
    assert (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)

    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("create schema pushq; create table pushq.jobs (id int)")
    await connection.close()
    ended = invoke("doctor", url=empty_database_url)
    assert "has a schema named pushq that pushq did not make" in ended.stderr
    assert (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)


def test_a_database_that_is_away_gets_one_sentence() -> None:
    ended = invoke("doctor", url="postgresql://localhost:1/app")
    assert "is away" in ended.stderr
    assert (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
