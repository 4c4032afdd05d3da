"""Tells those that wait for jobs that the jobs have ended.

A commit that notifies takes a lock of the whole cluster, and holds the lock while the commit waits for the disk. So the
teller tells after the outcomes are committed, on the connection of claims, whose commits wait for no disk. A message
that is lost, because the process dies in between or the database goes away, costs a waiter its next look.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from pushq.errors import DatabaseTrouble
from pushq.events import WaitersNotTold, publish
from pushq.pool.store import Store

MOST = 10_000
"""What is kept to be told. More is dropped: waiters look again."""
LAST = 1.0
"""Seconds for the last telling."""


class Teller:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._told = list[str]()
        self._has_some = anyio.Event()
        self._turn = anyio.Lock()

    def put(self, told: Sequence[str]) -> None:
        self._told += told[: MOST - len(self._told)]
        self._has_some.set()

    async def run(self) -> None:
        """Tells until cancelled."""
        while True:
            await self._has_some.wait()
            await self.tell()

    async def tell(self) -> None:
        """Tells what there is, all at once, after what is being told."""
        async with self._turn:
            told, self._told, self._has_some = self._told, [], anyio.Event()
            if not told:
                return
            try:
                await self._store.tell(told)
            except DatabaseTrouble as error:
                publish(WaitersNotTold(len(told), str(error)))

    async def finish(self) -> None:
        """Tells what is left, if the database answers soon: a drain has a deadline, and waiters look again."""
        with anyio.move_on_after(LAST):
            await self.tell()
