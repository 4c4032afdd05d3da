"""What wakes an idle pool: rung by the listener, waited for by the claimer."""

from __future__ import annotations

import anyio


class Doorbell:
    """To ring is idempotent: however often it was rung, it wakes once."""

    def __init__(self) -> None:
        self._rung = anyio.Event()
        self.hears = False
        """Whether notifications arrive. The listener says so."""
        self.interruptions = 0
        """How often the gate may have been shut behind the pool's back."""

    def ring(self) -> None:
        self._rung.set()

    def note_interruption(self) -> None:
        """Somebody said that gates were shut, or nobody could have been heard saying so."""
        self.interruptions += 1

    async def wait_rung(self) -> None:
        """Waits for a ring, or takes the one that came meanwhile."""
        await self._rung.wait()
        self._rung = anyio.Event()  # no await above: no ring falls between
