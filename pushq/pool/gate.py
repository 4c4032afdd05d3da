"""The gate: how inserters know that somebody is idle.

Theory of operation. A notifying commit is expensive, so an INSERT rings only while a pool of its queue is idle. A pool
that finds no job writes "somebody is idle until T" into the gates of its queues, and every INSERT reads its queue's
gate. (A gate is a sequence: every transaction, of any isolation level, sees the newest value at once.)

An INSERT may read the gate just before a pool opens the gate, skip the bell, and commit long after. Such a transaction
is writing to the table at that moment, and holds its lock on the table until its rows are visible. So the pool asks,
after opening the gate, which transactions are writing to the table: the *passers*. When the last passer has ended, the
pool looks a last time. A job inserted by a passer is found by then; any later job rings. Hence, in this order:

    open the gate; note the passers; claim; while passers are left: wait a little, see who is left, claim again; sleep.

The argument holds for as long as the gate stays open. But a pool that gets busy, or is amid a stream of jobs, shuts the
gate for all pools, and rings everybody in the same transaction. Each pool that hears such a ring forgets what it knew
and starts from the beginning, even if the gate is open: other pools may have shut and opened the gate meanwhile. A gate
runs out by itself if its pools die. A renewal that finds the gate shut or run out, or whose reply was lost, starts from
the beginning too.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from pushq.pool.store import Store

HOLDS = 60.0
"""Seconds that an opened gate stays open by itself. For so long, inserters ring for a pool that has died."""
RENEWED = 20.0
"""Seconds after which an idle pool renews its gates."""
LONGEST_PAUSE = 1.0
"""Seconds between two looks at the passers, at most."""


class Gate:
    """The gates of a pool's queues, as one."""

    def __init__(self, store: Store, queues: Sequence[str]) -> None:
        self._store = store
        self._queues = queues
        self._renew_at = -float("inf")
        self._passers: list[str] = []
        self._pause = 0.0
        self._pause_ends_at = -float("inf")
        self.is_shut = False
        """Whether this pool has shut the gate, rung everybody, and not opened the gate since."""
        self._is_half_shut = False  # whether the gate may be shut, and nobody rung

    @property
    def next_step_in(self) -> float:
        """Seconds until `settle` should be called again."""
        step_at = min(self._pause_ends_at, self._renew_at) if self._passers else self._renew_at
        return max(0.0, step_at - anyio.current_time())

    async def settle(self) -> bool:
        """Takes the next step of opening, or renews.

        Returns True if an inserter may have skipped the bell: then claim.
        """
        if self._passers and anyio.current_time() < self._renew_at:
            self._passers = await self._store.gate_passers(self._passers)
            self._wait_for_passers(min(self._pause * 2, LONGEST_PAUSE))
            return True
        if self._is_half_shut:
            await self.shut()  # others, which sleep, trust the gate
        stays_open, passers, renew_at = self._renew_at > -float("inf"), self._passers, anyio.current_time() + RENEWED
        self.forget()  # a failure half-way begins anew: a statement whose reply was lost may have opened the gate
        self.is_shut = False
        if await self._store.open_gate(self._queues, round(HOLDS * 1000)) or not stays_open:
            stays_open, passers = False, await self._store.gate_passers()
            self._wait_for_passers(0.002)
        self._passers, self._renew_at = passers, renew_at
        return bool(passers) or not stays_open

    def _wait_for_passers(self, seconds: float) -> None:
        self._pause = seconds
        self._pause_ends_at = anyio.current_time() + seconds

    async def shut(self) -> None:
        """Lets inserters skip the bell, since this pool is not idle. Pools that are idle open the gate again."""
        if not self.is_shut:
            self.forget()
            self._is_half_shut = True
            await self._store.shut_gate(self._queues)
            self.is_shut, self._is_half_shut = True, False

    def forget(self) -> None:
        """Begins anew: once another pool shut the gate, or notifications were lost, earlier steps prove nothing."""
        self._renew_at = -float("inf")
        self._passers = []
