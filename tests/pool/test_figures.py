"""What a pool tells its supervisor of itself, and when."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import anyio
import pytest

from pushq.events import BellDown, BellUp, DatabaseBack, DatabaseLost, Event, JobsClaimed, NotificationReceived, WokenUp
from pushq.link import Figures, Link
from pushq.pool import figures as module
from pushq.pool.figures import FigureKeeper
from pushq.pool.intake import Intake


@pytest.fixture
async def line() -> AsyncIterator[tuple[Link, Link]]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    one, other = await Link.over(ends[0]), await Link.over(ends[1])
    yield one, other
    await one.aclose()
    await other.aclose()


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ((WokenUp("notify"),), Figures(workers=3, wakeups={"notify": 1}, has_claimed=True)),
        ((JobsClaimed(2),), Figures(workers=3, has_claimed=True)),
        ((BellUp(),), Figures(workers=3, hears=True)),
        ((BellUp(), BellDown("no canary")), Figures(workers=3, hears=False)),
        ((DatabaseLost("it is away"),), Figures(workers=3, trouble="it is away")),
        ((DatabaseLost("it is away"), DatabaseBack(1.0)), Figures(workers=3)),
        ((DatabaseLost("it is away"), JobsClaimed(2)), Figures(workers=3, has_claimed=True)),
    ],
    ids=lambda value: " ".join(type(event).__name__ for event in value) if isinstance(value, tuple) else "",
)
async def test_what_readiness_hangs_on_is_told_at_once(
    line: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch, events: tuple[Event, ...], told: Figures
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 3600.0)
    keeper = FigureKeeper(3)
    async with anyio.create_task_group() as group:
        group.start_soon(keeper.report, line[0], Intake(3))
        assert await line[1].receive() == Figures(workers=3)
        for event in events:
            keeper(event)
            await anyio.wait_all_tasks_blocked()
        while await line[1].receive() != told:
            pass
        group.cancel_scope.cancel()


async def test_what_is_only_counted_waits_for_what_is_told_at_once(
    line: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 3600.0)
    keeper = FigureKeeper(3)
    keeper(WokenUp("notify"))
    async with anyio.create_task_group() as group:
        group.start_soon(keeper.report, line[0], Intake(3))
        assert await line[1].receive() == Figures(workers=3, wakeups={"notify": 1}, has_claimed=True)
        for event in (WokenUp("notify"), NotificationReceived(), JobsClaimed(2), BellUp()):
            keeper(event)
            await anyio.wait_all_tasks_blocked()
        assert await line[1].receive() == Figures(
            workers=3, wakeups={"notify": 2}, notifications=1, has_claimed=True, hears=True
        )
        group.cancel_scope.cancel()
