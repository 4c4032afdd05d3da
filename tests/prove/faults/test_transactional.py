"""The database goes away beside a transactional handler, or its reply to the commit does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from pushq.local.server import EmbeddedServer
from tests.support.hurt import a_server_to_hurt
from tests.support.jobs import Connection, finished, insert
from tests.support.pgbouncer import pooling
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.transactional import MAKE
from tests.support.waiting import eventually
from tests.torture.proxy import Proxy

TASKS = "tests.support.transactional:tasks"


@asynccontextmanager
async def behind_a_proxy() -> AsyncIterator[tuple[EmbeddedServer, Proxy, RunningSupervisor, Connection]]:
    """A supervisor that never polls and reaches its database through the proxy, and an onlooker who does not."""
    async with (
        a_server_to_hurt() as (server, connection),
        Proxy(server.directory / ".s.PGSQL.5432").serving() as proxy,
    ):
        await connection.execute(MAKE)
        url = f"postgresql://pushq@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        with supervising(url, tasks=TASKS, ready=False, POLL_INTERVAL="0", LOG_LEVEL="debug") as supervisor:
            await asyncio.to_thread(supervisor.wait_ready)
            await finished(connection, *await insert(connection, "tx.write"))
            yield server, proxy, supervisor, connection


def _reports_a_commit(message: bytes) -> bool:
    return message[:1] == b"C" and message[5:-1] == b"COMMIT"


def _reports_an_end(message: bytes) -> bool:
    """The only row of finish_in_transaction.sql begins with two trues."""
    return message[:1] == b"D" and message[7:17] == b"\x00\x00\x00\x01\x01\x00\x00\x00\x01\x01"


async def _effects(connection: Connection, job: UUID) -> int:
    return int(await connection.fetchval("select count(*) from public.effects where job = $1", job))


async def test_a_commit_whose_reply_was_lost_is_found_out_and_the_job_does_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.torture.proxy._reports_a_change", _reports_a_commit)
    async with behind_a_proxy() as (_, proxy, supervisor, connection):
        (job,) = await insert(connection, "tx.until", payload={"path": str(tmp_path / "sign")})
        await eventually(lambda: _is_open(connection))
        proxy.swallows.add("handlers")
        (tmp_path / "sign").touch()
        await eventually(lambda: _has_swallowed(proxy))
        proxy.swallows.clear()
        (row,) = await finished(connection, job)
        await eventually(lambda: _has_said(supervisor, "job ended", 2))

        assert (row["status"], row["attempt"], row["failures"]) == ("succeeded", 1, 0)
        assert await _effects(connection, job) == 1
        assert supervisor.said.count("outcome=succeeded") == 2
        assert "outcome refused" not in supervisor.said


async def test_an_end_whose_reply_was_lost_is_rolled_back_and_the_job_runs_again_at_no_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.torture.proxy._reports_a_change", _reports_an_end)
    async with behind_a_proxy() as (_, proxy, supervisor, connection):
        (job,) = await insert(connection, "tx.until", payload={"path": str(tmp_path / "sign")})
        await eventually(lambda: _is_open(connection))
        proxy.swallows.add("handlers")
        (tmp_path / "sign").touch()
        await eventually(lambda: _has_swallowed(proxy))
        proxy.swallows.clear()
        (row,) = await finished(connection, job)

        assert (row["status"], row["attempt"], row["failures"], row["crashes"]) == ("succeeded", 2, 0, 0)
        assert await _effects(connection, job) == 1
        assert "outcome refused" not in supervisor.said


async def test_an_end_that_is_lost_on_its_way_is_rolled_back_and_the_job_runs_again(
    tmp_path: Path,
) -> None:
    async with behind_a_proxy() as (_, proxy, _supervisor, connection):
        jobs = await insert(connection, "tx.until", 3, payload={"path": str(tmp_path / "sign")})
        await eventually(lambda: _is_open(connection, 3))
        proxy.loses.add("handlers")
        (tmp_path / "sign").touch()
        await eventually(lambda: _has_lost(proxy))
        proxy.loses.clear()
        rows = await finished(connection, *jobs)

        assert {(row["status"], row["crashes"]) for row in rows} == {("succeeded", 0)}
        assert [await _effects(connection, job) for job in jobs] == [1, 1, 1]


async def test_a_crash_of_the_server_leaves_nothing_of_a_handler_that_runs_and_the_handler_runs_again(
    tmp_path: Path,
) -> None:
    async with behind_a_proxy() as (server, _, _supervisor, connection):
        (job,) = await insert(connection, "tx.until", payload={"path": str(tmp_path / "sign")})
        await eventually(lambda: _is_open(connection))
        await asyncio.to_thread(server.restart, crash=True)
        (tmp_path / "sign").touch()
        again = await asyncpg.connect(server.url())
        try:
            (row,) = await finished(again, job, within=40)

            assert (row["status"], row["crashes"]) == ("succeeded", 0)
            assert await _effects(again, job) == 1
        finally:
            again.terminate()


async def _is_open(connection: Connection, handlers: int = 1) -> bool:
    found = await connection.fetchval(
        "select count(*) from pg_stat_activity where application_name like '%: handlers' "
        "and state = 'idle in transaction'"
    )
    return bool(found == handlers)


async def _has_swallowed(proxy: Proxy) -> bool:
    return proxy.swallowed["handlers"] > 0


async def _has_lost(proxy: Proxy) -> bool:
    return proxy.lost["handlers"] > 0


async def _has_said(supervisor: RunningSupervisor, words: str, times: int) -> bool:
    return supervisor.said.count(words) >= times


@pytest.mark.timeout(150)  # the package may have to be fetched
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_transactional_handlers_work_behind_a_pooler(
    connection: Connection, database_url: str, mode: str
) -> None:
    await connection.execute(MAKE)
    with (
        pooling(database_url, mode, default_pool_size=30) as pooled,
        supervising(pooled, "--concurrency=3", tasks=TASKS, LISTEN_DATABASE_URL=database_url),
    ):
        written = await insert(connection, "tx.write", 20)
        (undone,) = await insert(connection, "tx.then", payload={"then": "raise"})
        rows = await finished(connection, *written, undone)

        assert [row["status"] for row in rows] == ["succeeded"] * 20 + ["failed"]
        assert [await _effects(connection, job) for job in (*written, undone)] == [1] * 20 + [0]
