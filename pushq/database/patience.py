"""Waits out an outage of the database, and finds the items at fault when the database rejects a statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import count
from math import inf
from typing import TypeVar

import anyio

from pushq.backoff import exponential
from pushq.errors import DatabaseRefused, DatabaseTrouble, StatementRolledBack, UnexpectedState
from pushq.events import DatabaseBack, DatabaseLost, StatementRejected, publish

T = TypeVar("T")

reconnect_delay = exponential(timedelta(milliseconds=100), longest=timedelta(seconds=5))


async def wait_out(
    call: Callable[[], Awaitable[T]],
    *,
    longest: float = inf,
    unless: Callable[[DatabaseTrouble], bool] = lambda _: False,
) -> T:
    """Calls until the database answers. The call must bear repetition: a call that raised may have been carried out.

    longest: seconds between two calls, at most. unless: says which troubles to raise instead of waiting.
    """
    lost_at = anyio.current_time()
    for failures in count():
        try:
            answer = await call()
        except DatabaseTrouble as error:
            if unless(error):
                raise
            publish(trouble(error))
            await anyio.sleep(min(reconnect_delay(failures + 1).total_seconds(), longest))
        else:
            if failures:
                publish(DatabaseBack(anyio.current_time() - lost_at))
            return answer
    raise AssertionError("count() does not end")


class Outage:
    """An outage, from the first trouble to the next answer, shared by several callers."""

    def __init__(self) -> None:
        self._since: float | None = None

    def note(self, error: DatabaseTrouble) -> None:
        if self._since is None:
            self._since = anyio.current_time()
        publish(trouble(error))

    def end(self) -> None:
        """Call after each answer of the database."""
        if self._since is not None:
            publish(DatabaseBack(anyio.current_time() - self._since))
            self._since = None


def is_rejection(error: DatabaseTrouble) -> bool:
    """Whether the server rejected a statement for a reason that may last, and may lie in the arguments."""
    return bool(error.state) and isinstance(error, UnexpectedState | DatabaseRefused)


def is_no_rows_fault(error: DatabaseTrouble) -> bool:
    """Whether no single row can be at fault: the database did not answer, or cannot serve."""
    return not error.state or not isinstance(error, StatementRolledBack | DatabaseRefused)


def is_no_answer(error: DatabaseTrouble) -> bool:
    return not error.state


def trouble(error: DatabaseTrouble) -> DatabaseLost:
    """The event to publish for an error."""
    return (StatementRejected if is_rejection(error) else DatabaseLost)(str(error))


async def piecewise(
    call: Callable[[Sequence[T]], Awaitable[object]],
    items: Sequence[T],
    *,
    unless: Callable[[DatabaseTrouble], bool] = is_no_rows_fault,
) -> list[tuple[T, str]]:
    """Calls with all items.

    If the database rolls the call back, a bisection finds the items at fault; the rest is done.

    Returns each item that fails alone, with the database's message. One fault among n items costs at most 2 log n + 4
    extra calls; if every item is at fault, n + log n calls are made. unless: says which troubles to raise at once;
    calls already made stay done.
    """
    faults: list[tuple[T, str]] = []
    rest, size = list(items), len(items)
    suspected = 0  # this many items at the head of the rest hold a fault
    while rest:
        piece = rest[:size]
        try:
            await call(piece)
        except DatabaseTrouble as error:
            if unless(error):
                raise
            if len(piece) > 1:
                suspected = len(piece)
                size = suspected // 2
                continue
            faults.append((piece[0], str(error)))
            suspected = 0
        else:
            suspected = max(0, suspected - len(piece))
            size = (suspected + 1) // 2 or 2 * len(piece)
        rest = rest[len(piece) :]
    return faults
