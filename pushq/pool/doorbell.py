"""Wakes an idle pool: the listener rings, the sleeper waits for the ring."""

from __future__ import annotations

import anyio


class Doorbell:
    """To ring is idempotent: rings before the sleeper waits count as one."""

    def __init__(self) -> None:
        self._rung = anyio.Event()
        self.hears = False
        """Whether notifications arrive, by the listener's word."""
        self.interruptions = 0
        """How often the gate may have been shut behind the pool's back."""

    def ring(self) -> None:
        self._rung.set()

    def note_interruption(self) -> None:
        """Notes that another pool has shut the gate, or may have while notifications did not arrive."""
        self.interruptions += 1

    async def wait_rung(self) -> None:
        """Waits for a ring, or takes a ring that came before."""
        await self._rung.wait()
        self._rung = anyio.Event()  # no await above: no ring falls between
