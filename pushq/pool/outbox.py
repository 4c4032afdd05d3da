"""Outcomes on the way to the database: filled by the workers, emptied by the finisher in batches."""

from __future__ import annotations

from collections import deque

import anyio

from pushq.outcome import Outcome

LARGEST_BATCH = 2000
LARGEST_BATCH_SIZE = 8 * 1024 * 1024
"""Characters of results and errors in a batch, until the last outcome."""
MOST_UNWRITTEN = 4000
MOST_UNWRITTEN_SIZE = 2 * LARGEST_BATCH_SIZE
"""Outcomes, and characters, from which workers wait. So memory is bounded, and a crash runs few jobs again."""
MOST_ASIDE = 10_000
"""Outcomes put aside, from which workers wait, as from MOST_UNWRITTEN_SIZE characters put aside."""


class Outbox:
    """A batch is all that has gathered while the previous batch was written."""

    def __init__(self) -> None:
        self._outcomes: deque[Outcome] = deque()
        self._size = 0
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._is_closed = False
        self._aside = (0, 0)  # how many outcomes are put aside, and their size

    def put(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._size += outcome.size
        self._filled.set()

    @property
    def is_full(self) -> bool:
        aside, size_aside = self._aside
        return (
            len(self._outcomes) >= MOST_UNWRITTEN
            or self._size >= MOST_UNWRITTEN_SIZE
            or aside >= MOST_ASIDE
            or size_aside >= MOST_UNWRITTEN_SIZE
        )

    def note_aside(self, outcomes: int, size: int) -> None:
        """Notes how many outcomes, of how many characters, the finisher has put aside."""
        self._aside = (outcomes, size)
        self._emptied.set()

    async def wait_room(self) -> None:
        while self.is_full:
            if self._emptied.is_set():
                self._emptied = anyio.Event()
            await self._emptied.wait()

    async def batch(self) -> list[Outcome]:
        """Returns the next outcomes to write, or none when the outbox is closed and empty."""
        while not self._outcomes and not self._is_closed:
            self._filled = anyio.Event()
            await self._filled.wait()
        batch: list[Outcome] = []
        size = 0
        while self._outcomes and len(batch) < LARGEST_BATCH and size < LARGEST_BATCH_SIZE:
            outcome = self._outcomes.popleft()
            batch.append(outcome)
            size += outcome.size
        self._size -= size
        self._emptied.set()
        return batch

    def close(self) -> None:
        """Ends the finisher after the last batch."""
        self._is_closed = True
        self._filled.set()
