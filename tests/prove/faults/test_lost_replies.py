"""A claim or an outcome is carried out, and the reply to it is lost with its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from pushq.local.server import EmbeddedServer
from tests.support.hurt import a_server_to_hurt
from tests.support.jobs import Connection, count, die_with_them, finished, has_count, insert
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually
from tests.torture.proxy import Proxy

TASKS = "tests.prove.faults.handlers:tasks"


@asynccontextmanager
async def behind_a_proxy() -> AsyncIterator[tuple[Proxy, RunningSupervisor, Connection]]:
    """A supervisor that never polls and reaches its database through the proxy, and an onlooker who does not."""
    async with a_server_to_hurt() as (server, connection), _proxy_of(server).serving() as proxy:
        url = f"postgresql://pushq@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        with supervising(url, tasks=TASKS, ready=False, POLL_INTERVAL="0", LOG_LEVEL="debug") as supervisor:
            await asyncio.to_thread(supervisor.wait_ready)
            await finished(connection, *await insert(connection, "echo"))  # else it has not yet asked for types
            yield proxy, supervisor, connection


def _proxy_of(server: EmbeddedServer) -> Proxy:
    return Proxy(server.directory / ".s.PGSQL.5432")


async def test_an_outcome_whose_reply_was_lost_counts_once_and_is_not_taken_for_one_that_came_too_late(
    tmp_path: Path,
) -> None:
    async with behind_a_proxy() as (proxy, supervisor, connection):
        runs = tmp_path / "runs"
        jobs = await insert(connection, "note", 3, payload={"path": str(runs), "seconds": 0.5})
        await has_count(connection, 3, "status = 'running'")
        proxy.swallows.add("outcomes")
        await eventually(lambda: _has_swallowed(proxy, "outcomes"))
        proxy.swallows.clear()
        await eventually(lambda: _has_said(supervisor, "job ended", 1 + 3))
        await _ran_once(connection, supervisor, jobs, runs)


async def test_outcomes_whose_reply_was_lost_beside_a_locked_row_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row to be locked has its batch wait, so that the others come in one batch."""
    monkeypatch.setattr("tests.torture.proxy._reports_a_change", _says_that_all_were_accepted)
    async with behind_a_proxy() as (proxy, supervisor, connection):
        runs = tmp_path / "runs"
        (first,) = await insert(connection, "note", payload={"path": str(runs), "seconds": 0.5})
        locked = await insert(connection, "note", 2, payload={"path": str(runs), "seconds": 0.7})
        free = await insert(connection, "note", 2, payload={"path": str(runs), "seconds": 0.7})
        await has_count(connection, 5, "status = 'running'")
        proxy.swallows.add("outcomes")
        async with connection.transaction():
            await connection.execute("select from pushq.jobs where id = any($1) for update", [first, *locked])
            await eventually(lambda: _has_swallowed(proxy, "outcomes"))
            proxy.swallows.clear()
            await eventually(lambda: _has_said(supervisor, "job ended", 1 + len(free)))
        await eventually(lambda: _has_said(supervisor, "job ended", 1 + 5))
        await _ran_once(connection, supervisor, [first, *locked, *free], runs)


def _says_that_all_were_accepted(message: bytes) -> bool:
    """A row of two nulls and a false: nothing was refused, nobody waits, and no unit was given back."""
    return message[:1] == b"D" and message[5:] == b"\x00\x03" + b"\xff" * 8 + b"\x00\x00\x00\x01\x00"


async def test_what_a_claim_took_whose_reply_was_lost_runs_once_under_that_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What opens gates and asks for passers, on the same connection, gets its reply.
    monkeypatch.setattr("tests.torture.proxy._reports_a_change", _reports_a_claim)
    async with behind_a_proxy() as (proxy, supervisor, connection):
        runs = tmp_path / "runs"
        proxy.swallows.add("claims")
        jobs = await insert(connection, "note", 3, payload={"path": str(runs), "seconds": 0})
        await has_count(connection, 3, "status = 'running'")
        await eventually(lambda: _has_swallowed(proxy, "claims"))
        assert not runs.exists()
        proxy.swallows.clear()
        await _ran_once(connection, supervisor, jobs, runs)


def _reports_a_claim(message: bytes) -> bool:
    """A claim's rows are those of a select from its function. The statements beside it return one row."""
    return message[:1] == b"C" and message[5:-1] == b"SELECT 3"


async def test_a_death_whose_reply_was_lost_is_a_crash_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has no row any more, and was not declared dead by the sweeper that finds its jobs, may have said goodbye."""
    monkeypatch.setattr("tests.torture.proxy._reports_a_change", _reports_a_deletion)
    async with behind_a_proxy() as (proxy, _, connection):
        await insert(connection, "sleep", 3, payload={"seconds": 60}, queue="elsewhere")
        await die_with_them(connection)
        proxy.swallows.add("sweeper")
        await eventually(lambda: _has_swallowed(proxy, "sweeper"))
        proxy.swallows.clear()
        await has_count(connection, 3, "status = 'queued'")

        assert await count(connection, "status = 'queued' and crashes = 1") == 3


def _reports_a_deletion(message: bytes) -> bool:
    return message[:1] == b"C" and message[5:12] == b"DELETE " and message[5:-1] != b"DELETE 0"


async def _ran_once(connection: Connection, supervisor: RunningSupervisor, jobs: list[UUID], runs: Path) -> None:
    rows = await finished(connection, *jobs)
    costs = {(row["status"], row["attempt"], row["failures"], row["crashes"]) for row in rows}
    counted = await connection.fetchval(
        "select sum(jobs) from (select * from pushq.tallies union all select * from pushq.tally_log) as counted"
    )

    assert costs == {("succeeded", 1, 0, 0)}
    assert sorted(runs.read_text().split()) == sorted(map(str, jobs))
    assert counted == 1 + len(jobs)
    assert "outcome refused" not in supervisor.said


async def _has_swallowed(proxy: Proxy, purpose: str) -> bool:
    return proxy.swallowed[purpose] > 0


async def _has_said(supervisor: RunningSupervisor, words: str, times: int) -> bool:
    return supervisor.said.count(words) >= times
