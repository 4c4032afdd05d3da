"""Writes what handlers tell of their progress: once a second for all jobs of the pool, a change of phase at once.

A job's progress is written before its outcome, by this same writer, so that no older value comes after a newer one. If
the database does not answer meanwhile, the outcome carries the progress along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio

from pushq.database.patience import is_rejection, piecewise
from pushq.errors import DatabaseTrouble
from pushq.events import ProgressNotWritten, publish
from pushq.outcome import Outcome
from pushq.pool.store import Store
from pushq.progress import Unwritten, ledger

INTERVAL = 1.0
"""Seconds between two writes."""


class ProgressWriter:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._has_some = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._turn = anyio.Lock()
        self._is_away = False  # the database, as told

    async def run(self) -> None:
        """Writes until cancelled."""
        loop = asyncio.get_running_loop()
        ledger.noticed = lambda: loop.call_soon_threadsafe(self._has_some.set)
        ledger.phase_noticed = lambda: loop.call_soon_threadsafe(self._hurry)
        while True:
            await self._has_some.wait()
            await self.write()
            with anyio.move_on_after(INTERVAL):
                await self._is_urgent.wait()

    async def write(self) -> None:
        """Writes what there is, after what is being written."""
        async with self._turn:
            self._has_some.clear()
            self._is_urgent.clear()
            unwritten = ledger.take()
            if not unwritten:
                return
            try:
                await self._write(unwritten)
            except DatabaseTrouble as error:
                if is_rejection(error):
                    await self._write_apart(unwritten)
                else:
                    self._keep(unwritten, str(error))
            else:
                self._is_away = False

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        """The handlers have ended: writes their progress, or gives it to the outcomes."""
        told = [outcome for outcome in outcomes if outcome.job.fence in ledger.told]
        if not told:
            return
        await self.write()
        left = {one.fence: one for one in ledger.close([outcome.job.fence for outcome in told])}
        for outcome in told:
            outcome.progress = left.get(outcome.job.fence)

    async def _write(self, unwritten: Sequence[Unwritten]) -> None:
        """A claim that is not held any more has no progress."""
        held = await self._store.write_progress(unwritten)
        ledger.close([one.fence for one in unwritten if one.fence not in held])

    async def _write_apart(self, unwritten: Sequence[Unwritten]) -> None:
        """A row is at fault, by a user's trigger say: its progress is dropped, and the rest is written."""
        try:
            faults = await piecewise(self._write, unwritten)
        except DatabaseTrouble as error:
            self._keep(unwritten, str(error))
            return
        if faults:
            ledger.close([one.fence for one, _ in faults])
            publish(ProgressNotWritten(len(faults), faults[0][1]))

    def _keep(self, unwritten: Sequence[Unwritten], reason: str) -> None:
        ledger.put_back(unwritten)
        self._has_some.set()
        if not self._is_away:
            publish(ProgressNotWritten(len(unwritten), reason))
        self._is_away = True

    def _hurry(self) -> None:
        self._has_some.set()
        self._is_urgent.set()
