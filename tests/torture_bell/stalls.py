"""How long the machine stood still: what a job waited for that, is not pushq's doing."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress

import anyio
import asyncpg

from tests.torture_bell.inserters import AWAY

LEAST = 0.005
"""Seconds of delay that are nothing."""


class Stalls:
    """Of this process, which should wake a hundred times a second, and of the database, which is asked as often."""

    def __init__(self) -> None:
        self._recent = deque[tuple[float, float]](maxlen=2000)
        self.count = 0
        self.longest = 0.0
        self.total = 0.0

    def since(self, instant: float) -> float:
        """Seconds, of those that ended after an instant."""
        return sum(seconds for ended_at, seconds in self._recent if ended_at > instant)

    async def feel_own(self) -> None:
        while True:
            began = time.monotonic()
            await anyio.sleep(0.01)
            self._note(time.monotonic() - began - 0.01)

    async def feel_database(self, url: str) -> None:
        while True:
            with suppress(*AWAY):
                connection = await asyncpg.connect(url, timeout=5)
                try:
                    while True:
                        began = time.monotonic()
                        await connection.fetchval("select 1")
                        self._note(time.monotonic() - began)
                        await anyio.sleep(0.01)
                finally:
                    connection.terminate()
            await anyio.sleep(0.1)

    def _note(self, seconds: float) -> None:
        if seconds > LEAST:
            self._recent.append((time.time(), seconds))
            self.count += 1
            self.longest = max(self.longest, seconds)
            self.total += seconds
