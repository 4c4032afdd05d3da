"""What the bell says, as a listener hears it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.jobs import Connection
from tests.support.waiting import eventually


async def open_gate(connection: Connection, queue: str = "default") -> None:
    """As an idle pool does."""
    await connection.execute("select setval(pushq.gate($1), pushq.gate_clock() + 60000)", queue)


@asynccontextmanager
async def hearing(url: str) -> AsyncIterator[Ear]:
    listener = await asyncpg.connect(url)
    yield await Ear.of(listener)
    await listener.close()


class Ear:
    """What a listener has heard, up to now."""

    def __init__(self, listener: Connection) -> None:
        self._listener = listener
        self._heard: list[str] = []

    @classmethod
    async def of(cls, listener: Connection) -> Ear:
        ear = cls(listener)
        await listener.add_listener("pushq", lambda *arguments: ear._heard.append(arguments[3]))
        return ear

    async def take(self) -> list[str]:
        """Payloads since the last time. Notifications arrive in the order of commits: the mark comes last."""
        await self._listener.execute("notify pushq, '-mark-'")

        async def mark_is_heard() -> bool:
            return "-mark-" in self._heard

        await eventually(mark_is_heard)
        heard, self._heard[:] = self._heard[: self._heard.index("-mark-")], []
        return heard
