"""Anybody may take any advisory lock: it costs nobody but a migrator anything, and him a sentence."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from pushq.database import migrate
from tests.support.commands import invoke
from tests.support.jobs import Connection, finished, insert
from tests.support.roles import Logins
from tests.support.supervisors import supervising


async def test_while_a_producer_holds_our_lock_jobs_run_and_a_migrator_names_him(
    database_url: str, connection: Connection, logins: Logins
) -> None:
    squatter = await asyncpg.connect(logins.url_as("producer"))
    await squatter.execute(f"select pg_advisory_lock({migrate.LOCK})")
    with supervising(logins.url_as("worker")):
        await finished(connection, *await insert(connection, "echo", 10))

    began = time.monotonic()
    ended = await asyncio.to_thread(invoke, "migrate", url=database_url)
    assert time.monotonic() - began < 10
    assert ended.exit_code == 1
    assert f"role '{logins.name('producer')}' may not migrate" in ended.stderr
    assert "select pg_terminate_backend(" in ended.stderr
    assert "Traceback" not in ended.stderr

    await squatter.close()
    assert (await asyncio.to_thread(invoke, "migrate", url=database_url)).exit_code == 0


async def test_a_migrator_waits_for_another_however_long_that_one_takes(
    database_url: str, connection: Connection
) -> None:
    """As long as it may be one: an owner of the schema."""
    await connection.execute(f"select pg_advisory_lock({migrate.LOCK})")
    waiting = asyncio.create_task(migrate.migrate(database_url))
    await asyncio.sleep(migrate.PATIENCE + 1)
    assert not waiting.done()
    await connection.execute(f"select pg_advisory_unlock({migrate.LOCK})")

    assert await waiting == []
