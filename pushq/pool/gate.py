"""The gate: how inserters know that somebody is idle.

Theory of operation. A notifying commit is dear, so an INSERT rings only while a pool of its queue is idle. A pool that
has found nothing writes "somebody is idle until T" into its queues' gates, which every INSERT reads. (A gate is a
sequence: every transaction, of any isolation level, sees its newest value at once.)

An INSERT may have read the gate just before it was opened, skipped the bell, and commit long after. Whoever did so was
writing to the table at that moment and holds its lock until its commit is visible. So the pool asks, after it has
opened the gate, which transactions are writing to the table: the passers. Once the last of them has ended, it looks a
last time. What it finds then, no bell was needed for; what it does not find yet will ring. Hence, in this order:

    open the gate; note the passers; claim; while passers are left: wait a little, see who is left, claim again; sleep.

This holds for as long as the gate stays open from then on. A pool that gets busy shuts it, for all: so it rings
everybody in the same transaction, and whoever hears that forgets what it knew and starts from the beginning, even if it
finds the gate open: it may have been shut and opened by others meanwhile. A gate runs out by itself when its pools die.
A renewal that finds it shut or run out, or whose reply was lost, starts from the beginning too.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from pushq.pool.store import Store

HOLDS = 60.0
"""Seconds for which an opened gate stays open by itself: as long, the dead cost writers their notifications."""
RENEWED = 20.0
"""Seconds after which an idle pool opens it again."""
LONGEST_PAUSE = 1.0


class Gate:
    """The gates of a pool's queues, as one."""

    def __init__(self, store: Store, queues: Sequence[str]) -> None:
        self._store = store
        self._queues = queues
        self._renew_at = -float("inf")
        self._passers: list[str] = []
        self._pause = 0.0
        self._pause_ends_at = -float("inf")
        self._is_half_shut = False

    @property
    def is_open(self) -> bool:
        """Whether we have opened it, and not shut it."""
        return self._renew_at > -float("inf") or self._is_half_shut

    @property
    def next_step_in(self) -> float:
        """Seconds until `settle` should be called again."""
        step_at = min(self._pause_ends_at, self._renew_at) if self._passers else self._renew_at
        return max(0.0, step_at - anyio.current_time())

    async def settle(self) -> bool:
        """Takes the next step towards it, or renews. Returns whether somebody may have skipped the bell: then claim."""
        if self._passers and anyio.current_time() < self._renew_at:
            self._passers = await self._store.gate_passers(self._passers)
            self._wait_for_passers(min(self._pause * 2, LONGEST_PAUSE))
            return True
        stays_open, passers, renew_at = self._renew_at > -float("inf"), self._passers, anyio.current_time() + RENEWED
        self.forget()  # what fails half-way begins anew: a statement whose reply was lost may have opened the gate
        if await self._store.open_gate(self._queues, round(HOLDS * 1000)) or not stays_open:
            stays_open, passers = False, await self._store.gate_passers()
            self._wait_for_passers(0.002)
        self._passers, self._renew_at, self._is_half_shut = passers, renew_at, False
        return bool(passers) or not stays_open

    def _wait_for_passers(self, seconds: float) -> None:
        self._pause = seconds
        self._pause_ends_at = anyio.current_time() + seconds

    async def shut(self) -> None:
        """Lets inserters skip the bell: nobody here is idle. Whoever else is, opens again."""
        if self.is_open:
            self.forget()
            self._is_half_shut = True  # until it is done, again if its reply is lost: to shut and not to ring is fatal
            await self._store.shut_gate(self._queues)
            self._is_half_shut = False

    def forget(self) -> None:
        """Begins anew: after somebody shut the gate, or after a time of deafness, nothing that was known holds."""
        self._renew_at = -float("inf")
        self._passers = []
