"""What wakes an idle pool: rung by the listener, waited for by the claimer."""

from __future__ import annotations

import anyio


class Doorbell:
    """To ring is idempotent: however often it was rung, it wakes once."""

    def __init__(self) -> None:
        self._rung = anyio.Event()
        self.is_wired = False  # written by the listener: whether notifications arrive
        self.wirings = 0  # written by the listener: how often they began to
        self.shuttings = 0  # written by the listener: how often somebody said that gates were shut

    def ring(self) -> None:
        self._rung.set()

    async def wait_rung(self) -> None:
        """Waits for a ring, or takes the one that came meanwhile."""
        await self._rung.wait()
        self._rung = anyio.Event()  # no await above: no ring falls between
