"""Migrations: applied once, by any number at once, or with psql; never half."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from pushq.database.migrate import Migration, check_schema, migrate, migrations, missing
from pushq.errors import SchemaError
from tests.support.commands import invoke
from tests.support.server import Server
from tests.support.supervisors import ROOT, environment, pushq
from tests.support.waiting import eventually

NAMES = [migration.name for migration in migrations()]


async def test_twenty_migrators_at_once_apply_each_file_once(empty_database_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_database_url) for _ in range(20)))

    assert sorted(name for names in applied for name in names) == NAMES
    assert await missing(empty_database_url) == []


async def test_each_file_runs_with_psql_in_order(empty_database_url: str, server_bin_directory: Path) -> None:
    for file in sorted((ROOT / "migrations").glob("*.sql")):
        psql = [str(server_bin_directory / "psql"), empty_database_url, "-1qv", "ON_ERROR_STOP=1", "-f", str(file)]
        subprocess.run(psql, check=True, capture_output=True)

    assert await missing(empty_database_url) == []


async def test_the_printed_sql_makes_the_same_schema(empty_database_url: str, server_bin_directory: Path) -> None:
    printed = invoke("migrate", "--sql").stdout
    psql = [str(server_bin_directory / "psql"), empty_database_url, "-qv", "ON_ERROR_STOP=1"]
    subprocess.run(psql, input=printed, text=True, check=True, capture_output=True)

    assert await missing(empty_database_url) == []


async def test_check_tells_by_its_exit_code(empty_database_url: str) -> None:
    before = invoke("migrate", "--check", url=empty_database_url)
    applied = invoke("migrate", url=empty_database_url)
    after = invoke("migrate", "--check", url=empty_database_url)

    assert (before.exit_code, applied.exit_code, after.exit_code) == (1, 0, 0)
    assert f"lacks {', '.join(NAMES)}; run `pushq migrate`." in before.stdout
    assert f"applied {', '.join(NAMES)}" in applied.stdout
    assert "up to date" in after.stdout


async def test_a_supervisor_of_a_database_that_was_not_migrated_says_so(empty_database_url: str) -> None:
    ended = pushq("supervise", "tests.support.handlers:tasks", "--http-port", "0", url=empty_database_url)

    assert "has no pushq schema; run `pushq migrate`." in ended.stderr
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)


async def test_a_supervisor_of_a_database_that_lacks_the_newest_names_what_it_lacks(empty_database_url: str) -> None:
    own = await asyncpg.connect(empty_database_url)
    for migration in migrations()[:-1]:
        await own.execute(migration.sql)
    await own.close()

    with pytest.raises(SchemaError, match=f"lacks {NAMES[-1]}; run `pushq migrate`"):
        await check_schema(empty_database_url)
    assert await migrate(empty_database_url) == NAMES[-1:]


async def test_a_newer_schema_is_refused_in_a_sentence(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await connection.execute("insert into pushq.migrations values (9999, '9999_from_the_future')")

    with pytest.raises(SchemaError, match="has schema version 9999, and this pushq knows"):
        await check_schema(database_url)
    for command in (["migrate"], ["migrate", "--check"]):
        refused = invoke(*command, url=database_url)
        assert "has schema version 9999" in refused.stderr
        assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    supervisor = pushq("supervise", "tests.support.handlers:tasks", url=database_url)
    assert "has schema version 9999" in supervisor.stderr
    assert (supervisor.returncode, supervisor.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_of_another_encoding_is_refused_in_a_sentence(server: Server, encoding: str) -> None:
    async with server.fresh_database("template0", encoding=encoding) as url:
        refused = invoke("migrate", url=url)

    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert f"is encoded in {encoding}; pushq needs UTF8." in refused.stderr


async def test_a_file_that_fails_leaves_nothing_of_it(empty_database_url: str) -> None:
    own = await asyncpg.connect(empty_database_url)
    await own.execute("create schema pushq; create table pushq.queues (name text)")
    await own.execute((ROOT / "migrations" / "0001_jobs.sql").read_text().replace("create schema pushq;", ""))

    with pytest.raises(SchemaError, match="Migration 0003_supervisors failed, and nothing of it was kept"):
        await migrate(empty_database_url)
    assert await own.fetchval("select to_regclass('pushq.supervisors')") is None
    assert await missing(empty_database_url) == NAMES[2:]
    await own.close()


async def test_a_migrator_that_is_killed_midway_leaves_nothing_of_the_file_and_keeps_nobody_out(
    empty_database_url: str,
) -> None:
    """It is stopped in 0003 by somebody who has not committed a table of the same name."""
    own, other = await asyncpg.connect(empty_database_url), await asyncpg.connect(empty_database_url)
    for migration in migrations()[:2]:
        await own.execute(migration.sql)
    await other.execute("begin; create table pushq.tally_log ()")
    migrator = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pushq", "migrate", env=environment(empty_database_url), cwd=ROOT
    )
    try:
        await eventually(lambda: _migrator_waits(own))
    finally:
        migrator.kill()
        await migrator.wait()
    await own.execute(f"select pg_terminate_backend(pid) {WAITING_MIGRATOR}")  # as the network does, in time
    await other.execute("rollback")

    assert await own.fetchval("select to_regclass('pushq.supervisors')") is None
    assert await migrate(empty_database_url) == NAMES[2:]
    await own.close()
    await other.close()


async def test_a_migration_that_meets_a_deadlock_is_applied_after_it(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool locks the partition of unfinished jobs before the table that it is a part of; an ALTER TABLE after it."""
    await migrate(empty_database_url)
    altering = Migration(9999, "9999_newer", "alter table pushq.jobs add column newer int")
    monkeypatch.setattr("pushq.database.migrate._missing", returning([altering]))
    own, pool = await asyncpg.connect(empty_database_url), await asyncpg.connect(empty_database_url)
    await pool.execute("begin; set local deadlock_timeout = '1 min'; lock pushq.jobs_unfinished in row exclusive mode")
    migrating = asyncio.create_task(migrate(empty_database_url))
    await eventually(lambda: _migrator_waits(own))
    await pool.execute("lock pushq.jobs in row exclusive mode")
    await pool.execute("commit")

    assert await migrating == ["9999_newer"]
    await own.close()
    await pool.close()


async def test_while_a_migration_waits_for_a_table_others_get_it_in_between(empty_database_url: str) -> None:
    """0002 makes a trigger of the table that somebody has written to; whoever inserts next would stand behind it."""
    writer, other = await asyncpg.connect(empty_database_url), await asyncpg.connect(empty_database_url)
    await writer.execute(migrations()[0].sql)
    await writer.execute("begin; insert into pushq.jobs (task) values ('a')")
    migrating = asyncio.create_task(migrate(empty_database_url))
    await eventually(lambda: _migrator_waits(other))
    await other.execute("set statement_timeout = '20s'; insert into pushq.jobs (task) values ('b')")

    assert not migrating.done()
    await writer.execute("commit")
    assert await migrating == NAMES[1:]
    await writer.close()
    await other.close()


def returning(answer: object) -> Callable[..., Awaitable[object]]:
    async def answering(*_: object) -> object:
        return answer

    return answering


WAITING_MIGRATOR = (
    "from pg_stat_activity "
    "where application_name = 'pushq migrate' and datname = current_database() and wait_event_type = 'Lock'"
)


async def _migrator_waits(own: asyncpg.Connection[asyncpg.Record]) -> bool:
    return bool(await own.fetchval(f"select exists (select {WAITING_MIGRATOR})"))


async def test_migrating_changes_nothing_for_whoever_is_up_to_date(database_url: str) -> None:
    own = await asyncpg.connect(database_url)
    await own.execute("insert into pushq.jobs (task) values ('a')")
    before = await own.fetch("select * from pushq.migrations order by version")

    assert await migrate(database_url) == []
    assert await own.fetch("select * from pushq.migrations order by version") == before
    assert [row["name"] for row in before] == NAMES
    assert await own.fetchval("select count(*) from pushq.jobs") == 1
    await own.close()


def test_versions_are_counted_without_a_gap_and_each_file_names_itself() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(NAMES) + 1))
    for migration in migrations():
        assert f"({migration.version}, '{migration.name}')" in migration.sql
        assert f"pushq.schema_version() returns int language sql stable parallel safe return {migration.version};" in (
            migration.sql
        )
