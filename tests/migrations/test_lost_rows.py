"""Rows that belong to the schema may be lost: what can be derived is, and `pushq migrate` puts the rest back."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import asyncpg
import pytest

from pushq.database.migrate import check_schema, missing
from pushq.database.session import Session
from tests.support.commands import invoke
from tests.support.days import make_day
from tests.support.jobs import Connection, finished, insert
from tests.support.store import Store
from tests.support.supervisors import supervising

TRUNCATE_EVERYTHING = """
    do $$
    begin
        execute (
            select 'truncate ' || string_agg(oid::regclass::text, ', ') || ' restart identity cascade'
            from pg_class where relnamespace = 'pushq'::regnamespace and relkind in ('r', 'p'));
    end
    $$
"""
LONG_AGO = date(2020, 1, 1)


async def _truncate_everything(connection: Connection) -> None:
    """Under a supervisor, whose statements lock the same tables in other orders."""
    while True:
        with suppress(asyncpg.DeadlockDetectedError):
            await connection.execute(TRUNCATE_EVERYTHING)
            return


async def test_a_running_supervisor_runs_what_is_inserted_after_every_table_was_emptied(
    database_url: str, connection: Connection
) -> None:
    """As a test suite does between two tests. So does a supervisor that begins then, without a migration."""
    with supervising(database_url) as supervisor:
        for _ in range(2):
            await _truncate_everything(connection)
            rows = await finished(connection, *await insert(connection, "echo", 3))
            assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 1)}
        assert supervisor.stop() == 0
        assert " error " not in supervisor.said

    await connection.execute(TRUNCATE_EVERYTHING)
    with supervising(database_url):
        await finished(connection, *await insert(connection, "echo"))


async def test_a_dump_of_the_schema_alone_makes_a_database_that_runs_jobs(
    database_url: str, empty_database_url: str, server_bin_directory: Path
) -> None:
    dump = [str(server_bin_directory / "pg_dump"), "--schema-only", database_url]
    psql = [str(server_bin_directory / "psql"), "-qv", "ON_ERROR_STOP=1", empty_database_url]
    text = subprocess.run(dump, check=True, capture_output=True).stdout
    subprocess.run(psql, input=text, check=True, capture_output=True)

    assert await missing(empty_database_url) == []
    await check_schema(empty_database_url)
    with supervising(empty_database_url):
        copy = await asyncpg.connect(empty_database_url)
        await finished(copy, *await insert(copy, "echo"))
        await copy.close()


async def test_migrate_puts_the_rows_back_and_says_which(database_url: str, connection: Connection) -> None:
    before = await connection.fetch("select version, name from pushq.migrations order by version")
    days = await connection.fetch("select * from pushq.days order by day")
    await connection.execute("truncate pushq.migrations, pushq.days")

    said = (await asyncio.to_thread(invoke, "migrate", url=database_url)).stdout
    assert f"repaired the row of 0001_jobs, the row of {before[1]['name']}, " in said
    assert f", day {days[0]['day']}, day {days[1]['day']}" in said
    assert await connection.fetch("select version, name from pushq.migrations order by version") == before
    assert await connection.fetch("select * from pushq.days order by day") == days
    assert "up to date" in (await asyncio.to_thread(invoke, "migrate", url=database_url)).stdout


async def test_a_census_is_taken_again_once_its_clock_is_lost(database_url: str, connection: Connection) -> None:
    await connection.execute("truncate pushq.census_clock")
    session = Session(database_url, "somebody")

    assert await Store(session).take_census() is None
    assert await Store(session).take_census() is not None
    await session.close()


# Days ---------------------------------------------------------------------------------------------------------------


async def current_day(connection: Connection) -> date:
    day: date = await connection.fetchval("select pushq.current_day()")
    return day


async def test_without_rows_a_finished_job_goes_where_it_would_have_gone(connection: Connection) -> None:
    noted = await current_day(connection)
    await make_day(connection, LONG_AGO)
    await connection.execute("truncate pushq.days")
    assert await current_day(connection) == noted

    for day in await connection.fetch("select day from pushq.attached_days() as day where day > $1", LONG_AGO):
        await connection.execute(f"drop table pushq.jobs_{day['day']:%Y_%m_%d}")
    assert await current_day(connection) == LONG_AGO


async def test_making_days_notes_those_that_are_there_and_strikes_those_that_are_gone(connection: Connection) -> None:
    await make_day(connection, LONG_AGO)
    await make_day(connection, LONG_AGO + timedelta(1))
    await connection.execute("drop table pushq.jobs_2020_01_02; delete from pushq.days where day = '2020-01-01'")

    made = await connection.fetch("select pushq.make_days() as day")
    assert [row["day"] for row in made] == [LONG_AGO]
    noted = await connection.fetch("select day from pushq.days where day < now() - interval '2 days'")
    assert [row["day"] for row in noted] == [LONG_AGO]


@pytest.mark.parametrize("is_noted", [True, False])
async def test_a_day_that_somebody_has_detached_to_keep_it_is_never_emptied(
    connection: Connection, is_noted: bool
) -> None:
    await make_day(connection, LONG_AGO)
    await connection.execute(
        "insert into pushq.jobs (task, status, finished_on, finished_at) "
        "values ('a', 'succeeded', '2020-01-01', now());"
        "alter table pushq.jobs detach partition pushq.jobs_2020_01_01"
    )
    if not is_noted:
        await connection.execute("select pushq.make_days()")

    assert await connection.fetch("select pushq.retire_days('1 microsecond')") == []
    assert await connection.fetchval("select count(*) from pushq.jobs_2020_01_01") == 1


async def test_a_day_that_is_retired_stays_so_until_it_is_dropped(connection: Connection) -> None:
    """Noted as retired, it is detached, and dropped; should the note be forgotten, it is retired again."""
    await make_day(connection, LONG_AGO)
    await connection.execute("select pushq.retire_days('1 microsecond'); select pushq.make_days()")
    assert await connection.fetchval("select retired_at is not null from pushq.days where day = $1", LONG_AGO)

    await connection.execute("alter table pushq.jobs detach partition pushq.jobs_2020_01_01; select pushq.make_days()")
    assert await connection.fetchval("select retired_at is not null from pushq.days where day = $1", LONG_AGO)

    await connection.execute("drop table pushq.jobs_2020_01_01; select pushq.make_days()")
    assert await connection.fetchval("select count(*) from pushq.days where day = $1", LONG_AGO) == 0
