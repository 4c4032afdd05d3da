"""Migrations go forward only: what may be applied somewhere is not changed, and new things have files of their own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import asyncpg

from pushq.database.migrate import migrate, migrations
from tests.support.jobs import finished, insert
from tests.support.supervisors import ROOT, supervising

_KEPT = Path(__file__).with_name("kept.txt").read_text().splitlines()
_FIRST = 6
"""The version that the first users may have."""


def test_no_migration_is_changed() -> None:
    """`sha256sum *.sql` in migrations/ prints the lines of kept.txt; a new migration adds a line."""
    files = sorted((ROOT / "migrations").glob("*.sql"))
    assert [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in files] == _KEPT


async def test_a_queue_full_of_jobs_goes_on_after_each_migration(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    for migration in migrations()[:_FIRST]:
        await connection.execute(migration.sql)
    queued = await insert(connection, "echo", 5, payload={"value": 1}, tenant_id="acme")
    failed = await connection.fetchval(
        "insert into pushq.jobs (task, status, started_at, finished_at, finished_on) "
        "values ('echo', 'failed', now(), now(), pushq.current_day()) returning id"
    )
    assert len(await migrate(empty_database_url)) == len(migrations()) - _FIRST
    with supervising(empty_database_url):
        assert await connection.fetchval("select pushq.retry($1)", failed) == "queued"
        rows = await finished(connection, *queued, failed)
    await connection.close()

    assert {row["status"] for row in rows} == {"succeeded"}
