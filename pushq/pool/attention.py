"""How a pool heeds its doorbell.

Anybody who may connect to the database may ring. So a ring that brings no job is paid for out of an allowance, and a
storm of such rings is answered at a bounded rate.
"""

from __future__ import annotations

import anyio

from pushq.pool.doorbell import Doorbell


class Attention:
    """What the sleeper hears of the doorbell."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._allowance = Allowance()
        self._interruptions = 0  # of the doorbell's, how many have been heeded
        self._was_rung = False  # whether a ring has been paid for since interruptions were last heeded

    @property
    def hears(self) -> bool:
        """Whether notifications arrive."""
        return self._doorbell.hears

    async def rung_within(self, seconds: float) -> bool:
        """Waits for the bell, and then for the allowance, for so many seconds in all."""
        is_rung = False
        with anyio.move_on_after(seconds):
            await self._doorbell.wait_rung()
            is_rung = self._was_rung = True
            if pause := self._allowance.spend():
                await anyio.sleep(pause)
        return is_rung

    async def interrupted(self) -> bool:
        """Whether the gate may have been shut since the last call.

        If no ring has been paid for meanwhile, the answer is, and waits for the allowance.
        """
        if self._interruptions == self._doorbell.interruptions:
            return False
        if not self._was_rung:
            await anyio.sleep(self._allowance.spend())
        self._was_rung = False
        self._interruptions = self._doorbell.interruptions
        return True

    def note_job(self) -> None:
        """A claim found jobs: the last ring is refunded."""
        self._allowance.refund()


class Allowance:
    """How often a ring may lead to an empty claim: twenty in a row, then twenty a second. A token bucket."""

    def __init__(self, rate: float = 20.0, most: float = 20.0) -> None:
        self._rate = rate
        self._most = most
        self._left = most
        self._counted_at = anyio.current_time()

    def spend(self) -> float:
        """Seconds to wait before the next claim."""
        now = anyio.current_time()
        refilled = min(self._most, self._left + (now - self._counted_at) * self._rate)
        self._left = max(refilled - 1, -1.0)  # a caller that does not wait runs up no debt
        self._counted_at = now
        return max(0.0, -self._left / self._rate)

    def refund(self) -> None:
        """The last ring was worth its claim."""
        self._left = min(self._most, self._left + 1)
