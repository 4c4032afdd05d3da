"""Faults are the normal case: the database goes away, comes back, or never answers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import asyncpg

from pushq.exporter.logs import MOST_REASONS
from pushq.local.server import EmbeddedServer
from tests.support.hurt import a_server_to_hurt, freeze, thaw
from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.supervisors import supervising
from tests.support.waiting import wait_until


async def test_sigterm_ends_the_process_in_time_though_the_database_does_not_answer() -> None:
    async with a_server_to_hurt() as (server, connection):
        with supervising(server.url(), SHUTDOWN_TIMEOUT="1") as supervisor:
            await insert(connection, "sleep", 3, payload={"seconds": 0.5})
            await has_count(connection, 3, "status = 'running'")
            freeze(server)
            began = time.monotonic()
            supervisor.stop()

            assert time.monotonic() - began < 1 + 3


async def test_a_crash_of_the_database_is_waited_out_and_no_outcome_is_lost() -> None:
    async with a_server_to_hurt() as (server, connection):
        with supervising(server.url(), "--concurrency", "50") as supervisor:
            jobs = await insert(connection, "sleep", 50, payload={"seconds": 1.5})
            await has_count(connection, 50, "status = 'running'")
            victim = await connection.fetchval(
                "select pid from pg_stat_activity where application_name like '%claims' limit 1"
            )
            os.kill(victim, signal.SIGKILL)  # the whole server goes into recovery, and every connection is lost
            wait_until(lambda: _is_gone(victim))
            again = await _connect(server)
            rows = await finished(again, *jobs)
            assert supervisor.process.poll() is None
            assert supervisor.said.count("database lost") <= MOST_REASONS
            await finished(again, *await insert(again, "echo", 3))
            await again.close()

    assert {row["status"] for row in rows} == {"succeeded"}
    assert {row["failures"] for row in rows} == {0}


async def test_a_database_that_takes_no_connections_for_a_while_is_waited_out() -> None:
    async with a_server_to_hurt() as (server, connection):
        await connection.execute("create database elsewhere")
        administrator = await asyncpg.connect(server.url("elsewhere"))
        with supervising(server.url()) as supervisor:
            await administrator.execute("alter database postgres allow_connections false")
            await administrator.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pushq %'"
            )
            wait_until(lambda: "database lost" in supervisor.said)
            await administrator.execute("alter database postgres allow_connections true")
            await finished(connection, *await insert(connection, "echo", 3))
        await administrator.close()


async def test_a_database_that_stands_still_for_longer_than_the_lease_costs_no_attempt() -> None:
    async with a_server_to_hurt() as (server, connection):
        with supervising(server.url()) as supervisor, supervising(server.url()):
            jobs = await insert(connection, "sleep", 5, payload={"seconds": 3})
            await has_count(connection, 5, "status = 'running'")
            freeze(server)
            wait_until(lambda: "database lost" in supervisor.said, within=20)
            thaw(server)
            rows = await finished(connection, *jobs)

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}


def _is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def _connect(server: EmbeddedServer) -> Connection:
    deadline = time.monotonic() + 20
    while True:
        try:
            return await asyncpg.connect(server.url())
        except (OSError, asyncpg.PostgresError):
            assert time.monotonic() < deadline
