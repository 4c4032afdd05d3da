"""The listener: what it hears, and how it learns that it hears nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from pushq.database.session import Session
from pushq.events import BellDown, BellUp, Event, subscribe
from pushq.pool.doorbell import Doorbell
from pushq.pool.listener import Listener
from tests.support.jobs import Connection
from tests.support.proxy import proxied
from tests.support.store import Store
from tests.support.waiting import eventually


@asynccontextmanager
async def listening(url: str, queue: str = "mail") -> AsyncIterator[tuple[Session, Doorbell, list[Event]]]:
    session, sender = Session(url, "test listens", deadline=2), Session(url, "test sends", deadline=2)
    doorbell, events = Doorbell(), list[Event]()
    listener = Listener(session, Store(sender), doorbell, [queue], interval=0.1, patience=0.3)
    with subscribe(events.append):
        async with anyio.create_task_group() as group:
            group.start_soon(listener.run)
            await _said(events, BellUp)
            await doorbell.wait_rung()
            yield session, doorbell, events
            group.cancel_scope.cancel()
    await sender.close()


async def _said(events: list[Event], kind: type[Event], times: int = 1) -> None:
    async def look() -> bool:
        return sum(isinstance(event, kind) for event in events) >= times

    await eventually(look)


async def test_it_rings_for_its_queues_and_for_everybody_and_not_for_others(
    database_url: str, connection: Connection
) -> None:
    async with listening(database_url) as (_, doorbell, _):
        for payload, rings in (("mail", True), ("", True), ("other", False), ("{" * 7000, False)):
            await connection.execute("select pg_notify('pushq', $1)", payload)
            with anyio.move_on_after(0.5) as scope:
                await doorbell.wait_rung()
            assert scope.cancelled_caught != rings, payload


async def test_a_connection_that_looks_well_and_is_dead_is_noticed_and_replaced(database_url: str) -> None:
    async with proxied(database_url) as proxy, listening(proxy.url) as (_, doorbell, events):
        proxy.is_silent = True
        await _said(events, BellDown)
        assert not doorbell.hears
        proxy.is_silent = False
        await _said(events, BellUp, times=2)
        await doorbell.wait_rung()  # what was sent meanwhile is gone: only a claim can tell


async def test_a_connection_that_has_stopped_to_listen_is_noticed(database_url: str) -> None:
    """As behind a transaction pooler, which swallows notifications and says nothing."""
    async with listening(database_url) as (session, _, events):
        await session.execute_alone("unlisten *")
        await _said(events, BellDown)
        assert "PUSHQ_LISTEN_DATABASE_URL" in str(events[-1]) or "PUSHQ_WAKE" in str(events[-1])
        await _said(events, BellUp, times=2)
