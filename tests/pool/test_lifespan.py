"""A lifespan that takes long to begin is told, as long as it lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from pushq.events import Event, LifespanSlow, subscribe
from pushq.pool import lifespan as module
from pushq.pool.lifespan import Lifespan


@pytest.mark.parametrize(("seconds", "told"), [(0.2, [LifespanSlow(0.05)]), (0.0, [])])
async def test_a_lifespan_that_does_not_yield_for_long_is_told(
    monkeypatch: pytest.MonkeyPatch, seconds: float, told: list[Event]
) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[None]:
        await anyio.sleep(seconds)
        yield

    monkeypatch.setattr(module, "SLOW", 0.05)
    heard: list[Event] = []
    with subscribe(heard.append):
        async with anyio.create_task_group() as around:
            lifespan = Lifespan(make, lambda _: None, lambda: None)
            await lifespan.enter(around)
            await anyio.sleep(0.1)
            await lifespan.leave(by=anyio.current_time() + 1)
    assert heard == told
