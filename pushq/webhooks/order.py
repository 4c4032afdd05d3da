"""Keeps the deliveries of a job to a receiver in order, where they are in one pool at the same time.

The table decides which deliveries come first. But the table learns of an end only with the next batch of outcomes, and
a claim takes several deliveries of a job at once. So for a moment a delivery waits here, instead of going back.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import anyio

MOST_REMEMBERED = 10_000
"""Deliveries whose end is remembered. The table forgets an earlier one within a second."""


class Order:
    """most: how many deliveries may wait at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._over: dict[UUID, None] = {}
        self._put_off: dict[UUID, None] = {}
        self._news = anyio.Event()

    async def left_of(self, earlier: Sequence[UUID], seconds: float) -> Sequence[UUID]:
        """Which of these deliveries are not over. Waits for `seconds` while they may soon be."""
        left = self._left(earlier)
        if not left or self._waiting >= self._most:
            return left
        self._waiting += 1
        try:
            with anyio.move_on_after(seconds):
                while left and not any(one in self._put_off for one in left):
                    await self._news.wait()
                    left = self._left(left)
        finally:
            self._waiting -= 1
        return left

    def begin(self, delivery: UUID) -> None:
        self._put_off.pop(delivery, None)
        self._over.pop(delivery, None)  # replayed

    def end(self, delivery: UUID, *, is_over: bool) -> None:
        """is_over: delivered, or given up. Else the delivery is tried again later, and nobody waits here."""
        ended = self._over if is_over else self._put_off
        ended[delivery] = None
        if len(ended) > MOST_REMEMBERED:
            del ended[next(iter(ended))]
        self._news.set()
        self._news = anyio.Event()

    def _left(self, earlier: Sequence[UUID]) -> Sequence[UUID]:
        return [one for one in earlier if one not in self._over]
