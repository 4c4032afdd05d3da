"""One statement for many jobs, in which a job at fault harms nobody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from itertools import islice
from time import monotonic
from uuid import UUID

from pushq.errors import DatabaseRefused, DatabaseTrouble, StatementRolledBack

RETRIED = 20
"""Jobs set aside of which `retry` sends so many."""
SOON = 4
"""Times that a job is sent soon again: most locks are short."""
SLICE = 0.1
"""Seconds after which the work lets the waits that were told go first."""


class Pieces:
    """Jobs to be sent, all in one statement. A statement that was rolled back is sent again in halves.

    A job that fails alone, as with a locked row, is set aside until `retry`. send: the statement. is_certain: whether
    the right to send is certain. Until then, a missing right is missing for all jobs.
    """

    def __init__(self, send: Callable[[Collection[UUID]], Awaitable[None]], *, is_certain: bool) -> None:
        self._send = send
        self._is_certain = is_certain
        self._due = deque[list[UUID]]()
        self._aside: dict[UUID, int] = {}  # how often each was sent, in turn
        self._retried: dict[UUID, int] = {}

    @property
    def are_due(self) -> bool:
        return bool(self._due)

    @property
    def are_due_soon(self) -> bool:
        """Whether a job was set aside a short while ago."""
        return any(sent <= SOON for sent in self._aside.values())

    def add(self, job_ids: Iterable[UUID]) -> None:
        if more := list(job_ids):
            self._due.append(more)

    def retry(self) -> None:
        """Sends some of those again that were set aside, by turns: each that fails again keeps the others waiting."""
        self._retried = {job_id: self._aside.pop(job_id) for job_id in [*islice(self._aside, RETRIED)]}
        self.add(self._retried)

    def forget(self) -> None:
        self._due.clear()
        self._aside.clear()

    async def work(self, is_wanted: Callable[[UUID], bool]) -> None:
        """Sends what is due, for a while. Raises DatabaseTrouble if no single job can be at fault."""
        until = monotonic() + SLICE
        while self._due:
            piece = [job_id for job_id in self._due.popleft() if is_wanted(job_id)]
            if piece:
                await self._send_piece(piece)
            if monotonic() > until:
                return

    async def _send_piece(self, piece: list[UUID]) -> None:
        try:
            await self._send(piece)
        except DatabaseTrouble as error:
            if not self._may_be_one_jobs(error):
                self._due.appendleft(piece)
                raise
            half = len(piece) // 2
            if half:
                self._due.extendleft((piece[half:], piece[:half]))
            else:
                self._aside[piece[0]] = self._retried.get(piece[0], 0) + 1
        else:
            self._is_certain = True

    def _may_be_one_jobs(self, error: DatabaseTrouble) -> bool:
        if not error.state or not isinstance(error, StatementRolledBack | DatabaseRefused):
            return False
        return self._is_certain or not error.state.startswith(WRONG)


WRONG = "42"
"""What begins the SQLSTATE of a missing right or function: to try again helps nobody."""
