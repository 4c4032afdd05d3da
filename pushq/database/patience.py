"""Waiting the database out, and finding out whose fault it is: the one place that knows how."""

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
    """Calls until the database does it. Whoever calls twice must not mind that the first call may have been done.

    longest: seconds between two calls, at most. unless: whether a trouble is raised in place of being waited out.
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
    """A time in which the database does not do what it is told. Shared by those who find that out one after another."""

    def __init__(self) -> None:
        self._since: float | None = None

    def note(self, error: DatabaseTrouble) -> None:
        if self._since is None:
            self._since = anyio.current_time()
        publish(trouble(error))

    def end(self) -> None:
        """The database has done something."""
        if self._since is not None:
            publish(DatabaseBack(anyio.current_time() - self._since))
            self._since = None


def is_rejection(error: DatabaseTrouble) -> bool:
    """Whether the server has answered a statement with what may last, and may be in what the statement was given."""
    return bool(error.state) and isinstance(error, UnexpectedState | DatabaseRefused)


def is_no_rows_fault(error: DatabaseTrouble) -> bool:
    """Whether it can be no single row's fault: the database has not answered, or says that it cannot serve."""
    return not error.state or not isinstance(error, StatementRolledBack | DatabaseRefused)


def is_no_answer(error: DatabaseTrouble) -> bool:
    return not error.state


def trouble(error: DatabaseTrouble) -> DatabaseLost:
    """As an event."""
    return (StatementRejected if is_rejection(error) else DatabaseLost)(str(error))


async def piecewise(
    call: Callable[[Sequence[T]], Awaitable[object]],
    items: Sequence[T],
    *,
    unless: Callable[[DatabaseTrouble], bool] = is_no_rows_fault,
) -> list[tuple[T, str]]:
    """Calls with all items. Where the database undoes the call, a bisection finds who is at fault. The rest goes on.

    Returns the items that the database undoes alone, each with what the database says of the item. One fault among n
    costs at most 2 log n + 4 calls more; where every item is at fault, there are n + log n calls. unless: what is
    raised; what was done until then stays done.
    """
    faults: list[tuple[T, str]] = []
    rest, size = list(items), len(items)
    suspected = 0  # so many at the head of the rest are known to hold a fault
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
