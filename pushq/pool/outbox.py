"""Outcomes on their way to the database: filled by the workers, emptied by the finisher, in batches."""

from __future__ import annotations

from collections import deque

import anyio

from pushq.outcome import Outcome

LARGEST_BATCH = 500
LARGEST_BATCH_TEXT = 8 * 1024 * 1024
"""Characters of results and errors in a batch, more or less."""
MOST_UNWRITTEN = 1000
MOST_UNWRITTEN_TEXT = 2 * LARGEST_BATCH_TEXT
"""Beyond these, workers wait: memory is bounded whatever handlers return, and a crash runs few jobs again."""


class Outbox:
    """A batch is whatever has gathered while the last one was written."""

    def __init__(self) -> None:
        self._outcomes: deque[Outcome] = deque()
        self._text = 0
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._is_closed = False

    def put(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._text += outcome.text
        self._filled.set()

    @property
    def is_full(self) -> bool:
        return len(self._outcomes) >= MOST_UNWRITTEN or self._text >= MOST_UNWRITTEN_TEXT

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
        text = 0
        while self._outcomes and len(batch) < LARGEST_BATCH and text < LARGEST_BATCH_TEXT:
            outcome = self._outcomes.popleft()
            batch.append(outcome)
            text += outcome.text
        self._text -= text
        self._emptied.set()
        return batch

    def close(self) -> None:
        """There will be no more."""
        self._is_closed = True
        self._filled.set()
