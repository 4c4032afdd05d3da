"""The deadline of a supervisor that stops: the process exits in time, whatever the database does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

LAST_WORDS = 1.0
"""Seconds for the supervisor's own last statements together: the process is gone within grace + 3 seconds."""


class Farewell:
    """Cuts statements short at the deadline. Jobs still held then are left to the sweeper of another supervisor."""

    def __init__(self) -> None:
        self._gone_by = math.inf
        self._last_words = set[anyio.CancelScope]()

    def be_gone_within(self, seconds: float) -> None:
        """Brings the deadline forward, never back. Statements that began before the stop are bound as well."""
        self._gone_by = min(self._gone_by, anyio.current_time() + seconds)
        for scope in self._last_words:
            scope.deadline = self._gone_by

    def be_gone_soon(self) -> None:
        self.be_gone_within(LAST_WORDS)

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Cancels the block at the deadline."""
        with anyio.CancelScope(deadline=self._gone_by) as scope:
            self._last_words.add(scope)
            try:
                yield
            finally:
                self._last_words.discard(scope)
