"""A database that has served a test is as new for the next one, or it serves none."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.databases import Databases, until_alone
from tests.support.jobs import finished, insert
from tests.support.server import Server
from tests.support.supervisors import supervising

# Each leaves something behind that a test of the next one's might trip over.
CHANGES = """
alter database {database} set work_mem = '1MB'
alter role current_user in database {database} set work_mem = '1MB'
alter database {database} connection limit 7
revoke connect on database {database} from public
revoke usage on schema public from public
create view pushq.mine as select 1 as one
create sequence pushq.mine
alter sequence pushq.gate_7 increment 2
create function pushq.mine() returns int language sql return 1
create or replace function pushq.utc_today() returns date language sql stable return '2001-01-01'::date
create type pushq.mine as enum ('one')
create domain mine as int
alter table pushq.jobs add column mine text
alter table pushq.jobs alter column priority set default 7
alter table pushq.jobs_unfinished alter column id set statistics 7
alter table pushq.jobs_unfinished set (fillfactor = 70)
alter table pushq.jobs_unfinished replica identity full
alter table pushq.jobs_unfinished enable row level security
alter table pushq.queues add constraint mine check (name <> 'mine')
alter table pushq.jobs_unfinished disable trigger user
create index on pushq.jobs_unfinished (correlation_id)
create rule mine as on insert to pushq.queues do also notify mine
create policy mine on pushq.queues using (true)
create trigger mine before insert on pushq.queues for each row execute function suppress_redundant_updates_trigger()
create publication mine for all tables
create publication mine for table pushq.queues
create statistics pushq.mine on queue, task from pushq.jobs_unfinished
create operator @@@ (function = int4eq, leftarg = int, rightarg = int)
create extension btree_gist
grant select on pushq.jobs to public
grant select (id) on pushq.jobs to public
revoke execute on function pushq.utc_today() from public
revoke execute on function pg_catalog.now() from public
grant select on pg_catalog.pg_authid to public
alter default privileges revoke execute on functions from public
alter default privileges in schema pushq grant select on tables to public
select lo_create(7)
drop function pushq.utc_today() cascade
drop table pushq.census
""".strip().splitlines()


@pytest.fixture
async def own(server: Server, template: str) -> AsyncIterator[Databases]:
    databases = Databases(server, template)
    yield databases
    await databases.close()


@pytest.mark.parametrize("change", CHANGES)
async def test_a_database_whose_schema_rights_or_settings_were_changed_is_lent_to_nobody_else(
    own: Databases, change: str
) -> None:
    async with own.lent() as url:
        connection = await asyncpg.connect(url)
        await connection.execute(change.format(database=await connection.fetchval("select current_database()")))
        await connection.close()
    async with own.lent() as another:
        assert another != url

    assert len(own.given_up) == 1


async def test_what_was_made_and_dropped_again_has_never_been(own: Databases) -> None:
    async with own.lent() as url:
        connection = await asyncpg.connect(url)
        await connection.execute(
            """
            create type pushq.mine as enum ('one');
            drop type pushq.mine;
            alter table pushq.jobs_unfinished disable trigger jobs_ring_the_bell;
            alter table pushq.jobs_unfinished enable always trigger jobs_ring_the_bell;
            """
        )
        await connection.close()
    async with own.lent() as another:
        assert another == url


async def test_a_database_in_which_jobs_ran_is_as_new(
    own: Databases, server: Server, template: str, server_bin_directory: Path
) -> None:
    async with own.lent() as used:
        left_open, connection = await asyncpg.connect(used), await asyncpg.connect(used)
        await left_open.execute("begin; select pg_advisory_lock(7); lock table pushq.jobs")
        await left_open.execute("rollback; select pg_advisory_lock(7)")
        await connection.execute(
            """
            create schema another;
            create table another.mine (id uuid);
            create function another.mine() returns trigger language plpgsql as 'begin return new; end';
            create table pushq.mine (name text references pushq.queues);
            create trigger mine before insert on pushq.jobs for each row execute function another.mine();
            select pushq.make_days(9);
            """
        )
        with supervising(used):
            await finished(connection, *await insert(connection, "echo", 20, payload={"value": 1}))
            await insert(connection, "nobody knows it", 20)
        await connection.execute(
            """
            select pushq.pause('default');
            delete from pushq.migrations;
            update pushq.days set day = day + 100;
            insert into pushq.tallies values ('mine', 'echo', 'succeeded', 1, 1, 3, 1, 1);
            analyze;
            """
        )
        await connection.close()
    async with own.lent() as again:
        assert again == used, own.given_up
        async with server.fresh_database(template) as new:
            assert _dump(again, server_bin_directory) == _dump(new, server_bin_directory)
        connection = await asyncpg.connect(again)
        await until_alone(connection)
        # Autovacuum may have analyzed those that have the same rows in every database.
        assert not await connection.fetchval(
            "select array_agg(tablename) from pg_stats "
            "where schemaname = 'pushq' and tablename not in ('migrations', 'turnstiles')"
        )
        assert await connection.fetchval("select pg_try_advisory_lock(7)")
        await connection.close()


def _dump(url: str, bin_directory: Path) -> list[str]:
    """All that pg_dump knows of a database, but for the keys that it draws by lot."""
    dump = subprocess.run(
        [bin_directory / "pg_dump", "--create", url], capture_output=True, text=True, check=True, timeout=50
    )
    name = urlsplit(url).path.lstrip("/")
    return [line.replace(name, "it") for line in dump.stdout.splitlines() if "restrict" not in line]
