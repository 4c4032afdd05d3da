"""Migrations: applied once, by any number at once, or with psql; never half."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import asyncpg
import pytest

from pushq.database.migrate import check_schema, migrate, migrations, missing
from pushq.errors import SchemaError
from tests.support.supervisors import pushq

NAMES = [migration.name for migration in migrations()]


async def test_twenty_migrators_at_once_apply_each_file_once(empty_database_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_database_url) for _ in range(20)))

    assert sorted(name for names in applied for name in names) == NAMES
    assert await missing(empty_database_url) == []


async def test_each_file_runs_with_psql_in_order(empty_database_url: str, server_bin_directory: Path) -> None:
    for file in sorted((Path(__file__).parents[2] / "migrations").glob("*.sql")):
        psql = [str(server_bin_directory / "psql"), empty_database_url, "-1qv", "ON_ERROR_STOP=1", "-f", str(file)]
        subprocess.run(psql, check=True, capture_output=True)

    assert await missing(empty_database_url) == []


async def test_the_printed_sql_makes_the_same_schema(empty_database_url: str, server_bin_directory: Path) -> None:
    printed = pushq("migrate", "--sql").stdout
    psql = [str(server_bin_directory / "psql"), empty_database_url, "-qv", "ON_ERROR_STOP=1"]
    subprocess.run(psql, input=printed, text=True, check=True, capture_output=True)

    assert await missing(empty_database_url) == []


async def test_check_tells_by_its_exit_code(empty_database_url: str) -> None:
    before = pushq("migrate", "--check", url=empty_database_url)
    applied = pushq("migrate", url=empty_database_url)
    after = pushq("migrate", "--check", url=empty_database_url)

    assert (before.returncode, applied.returncode, after.returncode) == (1, 0, 0)
    assert f"missing {', '.join(NAMES)}" in before.stdout
    assert f"applied {', '.join(NAMES)}" in applied.stdout
    assert "up to date" in after.stdout


async def test_a_newer_schema_is_refused_in_a_sentence(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await connection.execute("insert into pushq.migrations values (9999, '9999_from_the_future')")

    with pytest.raises(SchemaError, match="has schema version 9999, and this pushq knows"):
        await check_schema(database_url)
    refused = pushq("migrate", url=database_url)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


async def test_a_file_that_fails_leaves_nothing_of_it(empty_database_url: str) -> None:
    own = await asyncpg.connect(empty_database_url)
    await own.execute("create schema pushq; create table pushq.queues (name text)")
    await own.execute(
        (Path(__file__).parents[2] / "migrations" / "0001_jobs.sql").read_text().replace("create schema pushq;", "")
    )

    with pytest.raises(SchemaError, match="Migration 0003_supervisors failed, and nothing of it was kept"):
        await migrate(empty_database_url)
    assert await own.fetchval("select to_regclass('pushq.supervisors')") is None
    assert await missing(empty_database_url) == NAMES[2:]
    await own.close()
