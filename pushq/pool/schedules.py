"""Tells the supervisor that a schedule has changed: pools listen, and supervisors do not."""

from __future__ import annotations

from contextlib import suppress

import anyio

from pushq.link import Link, SchedulesChanged

CHANNEL = "pushq_schedules"
"""The channel on which changes are told. The payload is empty."""
PAUSE = 0.02
"""Seconds between two messages. Anybody may notify, as often as they like."""


class SchedulesBell:
    """Rung by the listener."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def hear(self, _: str) -> None:
        self._rung.set()

    async def tell(self, link: Link) -> None:
        """Tells the supervisor of each ring, until cancelled."""
        while True:
            await self._rung.wait()
            self._rung = anyio.Event()
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the pool is about to end
                await link.send(SchedulesChanged())
            await anyio.sleep(PAUSE)
