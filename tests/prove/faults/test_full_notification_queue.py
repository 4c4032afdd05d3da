"""Somebody listens and does not read, and the server's notification queue fills up: no INSERT may fail for it.

PostgreSQL's queue holds 8 GB, or, since version 17, what it is told to: here half a megabyte.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from pushq.local.server import EmbeddedServer, _version, find_binaries
from tests.support.hurt import a_server_to_hurt
from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.metrics import shows
from tests.support.pools import asleep
from tests.support.supervisors import supervising

TASKS = "tests.prove.faults.handlers:tasks"
QUEUE = "q" * 200
"""Long, so that few notifications fill the server's queue and a socket."""
GUARD = "pg_catalog.pg_notification_queue_usage() operator(pg_catalog.>=) 0.5"


@asynccontextmanager
async def a_server_with_a_small_notification_queue() -> AsyncIterator[tuple[EmbeddedServer, Connection]]:
    if _version(find_binaries().directory) < 17:
        pytest.skip("before PostgreSQL 17 the notification queue holds 8 GB, which take too long to fill")
    async with a_server_to_hurt(max_notify_queue_pages="64") as (server, connection):
        yield server, connection


async def insert_from_four(server: EmbeddedServer, inserts: int) -> list[str]:
    """Each INSERT a transaction; the error codes of those that failed."""

    async def insert_all() -> list[str]:
        failed = []
        own = await asyncpg.connect(server.url())
        for _ in range(inserts // 4):
            try:
                await own.execute("insert into pushq.jobs (task, queue) values ('echo', $1)", QUEUE)
            except asyncpg.PostgresError as error:
                failed.append(str(error.sqlstate))
        await own.close()
        return failed

    async with asyncio.TaskGroup() as group:
        inserters = [group.create_task(insert_all()) for _ in range(4)]
    return [code for inserter in inserters for code in inserter.result()]


async def usage(connection: Connection) -> float:
    return float(await connection.fetchval("select pg_notification_queue_usage()"))


async def test_a_frozen_pool_fails_nobody_s_insert_and_runs_everything_when_it_thaws() -> None:
    async with a_server_with_a_small_notification_queue() as (server, connection):
        with supervising(server.url(), "--queue", QUEUE, POLL_INTERVAL="0") as supervisor:
            await asleep(connection, QUEUE)
            (pool,) = supervisor.pools
            os.kill(pool, signal.SIGSTOP)

            assert await insert_from_four(server, 5000) == []
            assert await usage(connection) >= 0.5

            # The negative control: without the guard they fail.
            ring_bell = await connection.fetchval("select pg_get_functiondef('pushq.ring_bell'::regproc)")
            assert ring_bell.count(GUARD) == 1
            await connection.execute(ring_bell.replace(GUARD, "false"))
            failed = await insert_from_four(server, 2000)
            assert set(failed) == {"54000"}
            await connection.execute(ring_bell)

            os.kill(pool, signal.SIGCONT)
            await has_count(connection, 7000 - len(failed), "status = 'succeeded'")


async def test_an_application_that_fills_the_queue_costs_neither_an_insert_nor_a_pool_and_jobs_run_within_seconds() -> (
    None
):
    async with a_server_with_a_small_notification_queue() as (server, connection):
        listener = await asyncpg.connect(server.url())
        with supervising(server.url(), tasks=TASKS, POLL_INTERVAL="3600", TEST_CANARY="1,0.5") as supervisor:
            pools = supervisor.pools
            await listener.execute("listen elsewhere")
            await listener.execute("begin")  # and goes for lunch
            # Nobody serves the long queue; each INSERT rings for it all the same.
            await connection.execute("select setval(pushq.gate($1), pushq.gate_clock() + 60000)", QUEUE)
            assert await insert_from_four(server, 5000) == []
            with suppress(asyncpg.ProgramLimitExceededError):
                while True:
                    await connection.execute("select pg_notify('elsewhere', repeat('x', 7000))")
            assert await usage(connection) > 0.9
            assert await insert_from_four(server, 200) == []

            await shows(supervisor, "pushq_listener_up", 0)
            assert "notification queue" in supervisor.said
            for _ in range(2):
                await finished(connection, *await insert(connection, "echo", 3), within=10)

            await listener.execute("rollback")
            await shows(supervisor, "pushq_listener_up", 1)
            await finished(connection, *await insert(connection, "echo", 3), within=10)
            assert supervisor.pools == pools
            assert supervisor.said.count("bell down") == 1
        await listener.close()
