"""The listener's connection looks well and is dead. TCP does not tell, for hours; the canary does."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.jobs import Connection, finished, insert
from tests.support.metrics import scrape, shows
from tests.support.pools import asleep
from tests.support.proxy import Proxy, proxied
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually

Break = Callable[[Proxy], None]
TASKS = "tests.prove.faults.handlers:tasks"
QUICK_CANARY = "0.5,0.3"
WAYS = [Proxy.silence_connections, Proxy.leave_half_open]


@asynccontextmanager
async def listening_through_a_proxy(url: str, **settings: str) -> AsyncIterator[tuple[Proxy, RunningSupervisor]]:
    """A supervisor that practically never polls. Only its listener's connection leads through the proxy."""
    async with proxied(url) as proxy:
        given = {"LISTEN_DATABASE_URL": proxy.url, "POLL_INTERVAL": "3600"} | settings
        with supervising(url, tasks=TASKS, ready=False, **given) as supervisor:
            await asyncio.to_thread(supervisor.wait_ready)
            yield proxy, supervisor


async def has_said(supervisor: RunningSupervisor, words: str, times: int, within: float = 10) -> None:
    async def look() -> bool:
        return supervisor.said.count(words) >= times

    await eventually(look, within=within)


@pytest.mark.parametrize("cut_off", WAYS)
async def test_a_listener_that_was_cut_off_without_a_word_is_back_and_nothing_inserted_meanwhile_waits_for_a_poll(
    database_url: str, connection: Connection, cut_off: Break
) -> None:
    async with listening_through_a_proxy(database_url, TEST_CANARY=QUICK_CANARY) as (proxy, supervisor):
        await finished(connection, *await insert(connection, "echo"))
        (pool,) = supervisor.pools
        sockets = _sockets(pool)
        for cycle in range(1, 4):
            cut_off(proxy)
            await finished(connection, *await insert(connection, "echo", 3), within=10)
            await has_said(supervisor, "bell up", 1 + cycle)
            await finished(connection, *await insert(connection, "echo", 3), within=10)

        assert supervisor.said.count("bell down") == 3
        await eventually(lambda: _has_three_connections(connection))
        assert _sockets(pool) <= sockets
        assert proxy.connections == 1


def _sockets(pid: int) -> int:
    return sum(str(end.readlink()).startswith("socket:") for end in Path(f"/proc/{pid}/fd").iterdir())


async def _has_three_connections(connection: Connection) -> bool:
    pools = "from pg_stat_activity where datname = current_database() and application_name like 'pushq pool%'"
    return bool(await connection.fetchval(f"select count(*) = 3 {pools}"))


async def test_while_no_listener_can_be_had_the_gauge_is_down_and_the_pool_polls_every_second(
    database_url: str, connection: Connection
) -> None:
    async with listening_through_a_proxy(database_url, TEST_DEADLINE="2", TEST_CANARY=QUICK_CANARY) as (
        proxy,
        supervisor,
    ):
        await shows(supervisor, "pushq_listener_up", 1)
        proxy.is_silent = True
        await shows(supervisor, "pushq_listener_up", 0)
        for _ in range(2):
            await finished(connection, *await insert(connection, "echo", 3), within=10)
        assert supervisor.get("/readyz")[0] == 200
        proxy.is_silent = False
        await shows(supervisor, "pushq_listener_up", 1)

        assert supervisor.said.count("bell down") == 1


LAST_SAID_LONG_AGO = """
    select query_start < clock_timestamp() - interval '1.5 seconds' from pg_stat_activity
    where datname = current_database() and application_name like '%: claims'
"""
"""Longer than a pool that waits for its gate would be silent."""


async def test_without_the_canary_nobody_would_ever_notice(database_url: str, connection: Connection) -> None:
    """The negative control: it is the canary that the tests above see at work."""
    given = {"TEST_CANARY": QUICK_CANARY, "TEST_PLANTED": "no-canary"}
    async with listening_through_a_proxy(database_url, **given) as (proxy, supervisor):
        await eventually(lambda: connection.fetchval(LAST_SAID_LONG_AGO))
        await asleep(connection)
        proxy.leave_half_open()
        missed = await insert(connection, "echo")
        with pytest.raises(AssertionError, match="did not come true"):
            await finished(connection, *missed, within=3)

        assert scrape(supervisor, "pushq_listener_up") == 1
        assert "bell down" not in supervisor.said


async def test_with_the_true_intervals_push_is_back_within_20_seconds_and_the_gauge_is_down_in_between(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening_through_a_proxy(database_url) as (proxy, supervisor):
        door = Door(proxy)
        monkeypatch.setattr(proxy, "serve", door.serve)
        proxy.leave_half_open()  # at the worst moment: the canary has just come back
        cut_off_at = time.monotonic()
        jobs = await insert(connection, "echo")
        await shows(supervisor, "pushq_listener_up", 0, within=25)
        waited = door.open()
        await has_said(supervisor, "bell up", 2)
        await finished(connection, *jobs, within=1)
        seconds = time.monotonic() - cut_off_at - waited

        assert 10 < seconds < 20
        await shows(supervisor, "pushq_listener_up", 1)


class Door:
    """Lets nobody through a proxy until it is opened."""

    def __init__(self, proxy: Proxy) -> None:
        self._serve = proxy.serve
        self._is_open = asyncio.Event()
        self._first_came_at = math.inf

    def open(self) -> float:
        """For how many seconds somebody has waited before it."""
        self._is_open.set()
        return max(0.0, time.monotonic() - self._first_came_at)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, server_url: str) -> None:
        self._first_came_at = min(self._first_came_at, time.monotonic())
        await self._is_open.wait()
        await self._serve(reader, writer, server_url=server_url)
