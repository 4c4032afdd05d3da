"""Databases as administrators and hosts give them: each role does its work, or a sentence says what is missing."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from pushq.database.migrate import migrate
from pushq.database.roles import grants
from pushq.database.schema import faults
from tests.support.commands import invoke
from tests.support.jobs import Connection, finished
from tests.support.roles import Logins, a_login_each, drop, fresh_roles, granted, url_as
from tests.support.supervisors import pushq, supervising

ROW_SECURITY_FOR_EVERY_TABLE = """
    create function public.secure() returns event_trigger language plpgsql as $$
    declare
        made record;
    begin
        for made in select * from pg_event_trigger_ddl_commands() where object_type = 'table' loop
            execute format('alter table %s enable row level security', made.objid::regclass);
        end loop;
    end
    $$;
    create event trigger secure on ddl_command_end when tag in ('CREATE TABLE') execute function public.secure();
"""

SECURE_AGAIN = """
    do $$
    begin
        execute (
            select string_agg(format('alter table %s enable row level security', oid::regclass), '; ')
            from pg_class where relnamespace = 'pushq'::regnamespace and relkind in ('r', 'p'));
    end
    $$
"""


@pytest.fixture
async def admin(empty_database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def a_role(admin: Connection, what: str) -> AsyncIterator[str]:
    name = f"{what}_{uuid4().hex[:8]}"
    await admin.execute(f"create role {name} login password 'secret'")
    yield name
    await admin.execute(f"reassign owned by {name} to current_user; drop owned by {name}; drop role {name}")


async def execute(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


async def each_does_its_work(admin: Connection, logins: Logins) -> None:
    """A producer's job starts by the bell alone; the worker sweeps, too; the observer looks."""
    producer = await asyncpg.connect(logins.url_as("producer"))
    with supervising(logins.url_as("worker"), POLL_INTERVAL="0") as supervisor:
        job = await producer.fetchval("insert into pushq.jobs (task) values ('echo') returning id")
        rows = await finished(admin, job)
        assert [row["status"] for row in rows] == ["succeeded"]
        assert await producer.fetchval("select pushq.ring('default')") == "rung"
        for command in (["jobs"], ["jobs", "show", str(job)], ["queues"]):
            looked = await asyncio.to_thread(invoke, *command, url=logins.url_as("observer"))
            assert (looked.exit_code, looked.stderr) == (0, "")
            assert "default" in looked.stdout
        assert supervisor.get("/metrics")[0] == 200
        assert supervisor.stop() == 0
        assert "permission denied" not in supervisor.said
    for forbidden in ("make_days()", "retire_days('1 second')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await producer.execute(f"select pushq.{forbidden}")
    await producer.close()


async def test_where_public_may_execute_nothing_each_role_does_its_work(
    empty_database_url: str, admin: Connection
) -> None:
    await admin.execute("alter default privileges revoke execute on functions from public")
    await migrate(empty_database_url)

    async with a_login_each(admin, empty_database_url) as logins:
        await each_does_its_work(admin, logins)


async def test_after_a_restore_without_privileges_the_printed_roles_make_the_rights_again(
    database_url: str, empty_database_url: str, admin: Connection, server_bin_directory: Path
) -> None:
    dump = [str(server_bin_directory / "pg_dump"), "--no-privileges", "--no-owner", database_url]
    psql = [str(server_bin_directory / "psql"), "-qv", "ON_ERROR_STOP=1", empty_database_url]
    text = subprocess.run(dump, check=True, capture_output=True).stdout
    subprocess.run(psql, input=text, check=True, capture_output=True)

    keeps, opens = await faults(empty_database_url)
    assert (
        "lacks rights of the roles: everybody: select on gate_N, everybody: select on inserts_noted, "
        "everybody: select on needs_stamped; as the owner run" in keeps
    )
    assert opens.startswith(
        "lets everybody do too much: execute on append_artifact(uuid, uuid, integer, bytea, bigint, bigint)"
    )
    assert opens.endswith("; revoke these rights from public, or as the owner run what `pushq migrate --roles` prints.")
    async with a_login_each(admin, empty_database_url) as logins:
        assert await faults(empty_database_url) == []
        await each_does_its_work(admin, logins)


async def test_a_schema_that_an_administrator_has_made_does_and_who_may_do_what_is_said(
    empty_database_url: str, admin: Connection, server_bin_directory: Path
) -> None:
    """The owner of the tables may neither make a schema, nor roles, nor grant the schema's usage."""
    roles = fresh_roles()
    psql = [str(server_bin_directory / "psql"), "-qv", "ON_ERROR_STOP=1"]
    async with a_role(admin, "owner") as owner:
        url = url_as(empty_database_url, owner)
        await admin.execute(f"create schema pushq; grant usage, create on schema pushq to {owner}")
        await migrate(url)

        said = subprocess.run([*psql, url], input=grants(roles), text=True, capture_output=True, check=False)
        assert said.returncode == 3
        assert said.stderr.count("ERROR:") == 1
        names = astuple(roles)
        statements = f"create role {' nologin; create role '.join(names)} nologin; "
        statements += f"grant usage on schema pushq to {', '.join(names)}"
        assert f"an administrator must run `{statements}` first, which {owner} may not; then repeat this" in said.stderr

        await admin.execute(statements)
        subprocess.run([*psql, url], input=grants(roles), text=True, check=True)
        may_make_days = "select has_function_privilege($1, 'pushq.make_days(int)', 'execute')"
        assert await admin.fetchval(may_make_days, roles.worker)
        await drop(admin, roles)


async def test_roles_tell_who_is_not_the_owner_and_where_there_is_no_schema(
    empty_database_url: str, admin: Connection
) -> None:
    async with a_role(admin, "somebody") as somebody:
        url = url_as(empty_database_url, somebody)
        with pytest.raises(asyncpg.RaiseError, match="has no pushq schema: run `pushq migrate` first"):
            await execute(url, grants())
        await migrate(empty_database_url)
        with pytest.raises(asyncpg.RaiseError, match=f"run this as that role, not as {somebody}"):
            await execute(url, grants())


async def test_row_level_security_for_every_new_table_is_told_as_such_and_switched_off_by_the_roles(
    empty_database_url: str, admin: Connection
) -> None:
    await admin.execute(ROW_SECURITY_FOR_EVERY_TABLE)
    await migrate(empty_database_url)
    async with a_login_each(admin, empty_database_url) as logins:
        await admin.execute(SECURE_AGAIN)
        for login, command in (
            ("worker", ["supervise", "tests.support.handlers:tasks", "--http-port", "0"]),
            ("worker", ["sweep"]),
            ("worker", ["migrate"]),
            ("observer", ["exporter", "--http-port", "0"]),
            ("observer", ["jobs"]),
            ("observer", ["queues"]),
        ):
            ended = await asyncio.to_thread(pushq, *command, url=logins.url_as(login))
            hidden = "affinities, artifact_bytes, artifact_drafts, artifact_pieces, artifacts, census, census_clock"
            assert f"hides the rows of {hidden}, census_running, days, job_events, jobs, " in ended.stderr, command
            assert "by row-level security" in ended.stderr
            assert ended.stderr.count("\n") == 1
            assert ended.returncode in {1, 2}

        await admin.execute(grants(logins.roles))
        await each_does_its_work(admin, logins)


async def test_the_printed_roles_call_nothing_of_their_runner_s_search_path(connection: Connection) -> None:
    """And leave it as it was."""
    await connection.execute(
        "create schema trap; create function trap.to_regclass(text) returns regclass language plpgsql as "
        "$$ begin raise 'trapped'; end $$; set search_path = trap, pg_catalog"
    )
    async with granted(connection):
        assert await connection.fetchval("show search_path") == "trap, pg_catalog"


async def test_the_printed_roles_say_nothing_of_what_others_have_made_in_the_schema(connection: Connection) -> None:
    """Whose user is called pushq finds its own tables there."""
    await connection.execute(
        "create table pushq.of_mine (); create sequence pushq.gate_of_mine;"
        "alter table pushq.of_mine enable row level security;"
        "grant select on pushq.of_mine to current_user"
    )
    what = "select relrowsecurity, relacl::text from pg_class where relname ~ 'of_mine' order by relname"
    before = await connection.fetch(what)
    async with granted(connection):
        assert await connection.fetch(what) == before
