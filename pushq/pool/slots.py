"""The free workers of a pool: counted down by the claimer, up by the workers."""

from __future__ import annotations

import anyio


class Slots:
    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.free = workers
        self._freed = anyio.Event()

    @property
    def busy(self) -> int:
        return self.workers - self.free

    def take(self, count: int) -> None:
        self.free -= count

    def give_back(self) -> None:
        self.free += 1
        self._freed.set()
        self._freed = anyio.Event()

    async def wait_free(self) -> None:
        while self.free <= 0:
            await self._freed.wait()
