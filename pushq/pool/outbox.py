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
MOST_ASIDE = 10_000
"""Outcomes that were put aside, and as much text as may be unwritten: beyond these workers wait, too."""


class Outbox:
    """A batch is whatever has gathered while the last one was written."""

    def __init__(self) -> None:
        self._outcomes: deque[Outcome] = deque()
        self._text = 0
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._is_closed = False
        self._aside = (0, 0)  # how many outcomes are put aside, and their text

    def put(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._text += outcome.text
        self._filled.set()

    @property
    def is_full(self) -> bool:
        aside, text_aside = self._aside
        return (
            len(self._outcomes) >= MOST_UNWRITTEN
            or self._text >= MOST_UNWRITTEN_TEXT
            or aside >= MOST_ASIDE
            or text_aside >= MOST_UNWRITTEN_TEXT
        )

    def note_aside(self, outcomes: int, text: int) -> None:
        """So many have been taken out and are not written, for a reason that is theirs."""
        self._aside = (outcomes, text)
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
