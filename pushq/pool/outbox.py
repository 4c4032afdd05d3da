"""Outcomes on their way to the database: filled by the workers, emptied by the finisher, in batches."""

from __future__ import annotations

from collections import deque

import anyio

from pushq.outcome import Outcome

LARGEST_BATCH = 500
LARGEST_BATCH_SIZE = 8 * 1024 * 1024
"""Characters of results and errors in a batch, more or less."""
MOST_UNWRITTEN = 1000
MOST_UNWRITTEN_SIZE = 2 * LARGEST_BATCH_SIZE
"""Outcomes, and characters, beyond which workers wait. So memory is bounded, and a crash runs few jobs again."""
MOST_ASIDE = 10_000
"""Outcomes that were put aside. Beyond these, or beyond MOST_UNWRITTEN_SIZE of theirs, workers wait too."""


class Outbox:
    """A batch is whatever has gathered while the last one was written."""

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
        """So many have been taken out and are not written, for a reason that is theirs."""
        self._aside = (outcomes, size)
        self._emptied.set()

    async def wait_room(self) -> None:
        while self.is_full:
            if self._emptied.is_set():
                self._emptied = anyio.Event()
            await self._emptied.wait()

    async def batch(self) -> list[Outcome]:
        """The next outcomes to write; none when there will be no more."""
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
        """There will be no more."""
        self._is_closed = True
        self._filled.set()
