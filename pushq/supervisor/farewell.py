"""By when a supervisor that stops has to be gone, whatever the database does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

LAST_WORDS = 1.0
"""Seconds for the supervisor's own last statements, all together: it is gone within grace + 3 seconds whatever the
database does."""


class Farewell:
    """What the database does not answer before the supervisor has to be gone is left to somebody's sweeper."""

    def __init__(self) -> None:
        self._gone_by = math.inf
        self._last_words = set[anyio.CancelScope]()

    def be_gone_within(self, seconds: float) -> None:
        """Statements under way are cut short then, too: they may have begun long before anybody said stop."""
        self._gone_by = min(self._gone_by, anyio.current_time() + seconds)
        for scope in self._last_words:
            scope.deadline = self._gone_by

    def be_gone_soon(self) -> None:
        self.be_gone_within(LAST_WORDS)

    @contextmanager
    def in_time(self) -> Iterator[None]:
        with anyio.CancelScope(deadline=self._gone_by) as scope:
            self._last_words.add(scope)
            try:
                yield
            finally:
                self._last_words.discard(scope)
