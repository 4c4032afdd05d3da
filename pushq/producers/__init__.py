"""Finds how a statement is run on a connection of the caller's, whichever driver's it is.

No driver is imported here. Whoever gives a connection has imported its driver, so the driver's classes are looked up
among the modules that are imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic, TypeAlias, TypeVar

from pushq.errors import UnusableConnection
from pushq.producers import asyncpg, django, psycopg, sqlalchemy
from pushq.producers.rows import Part

Run: TypeAlias = Callable[[Any, str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]
"""Runs a statement with parameters $1, $2, … on a connection, in its transaction. Returns the rows."""

RunSync: TypeAlias = Callable[[Any, str, Sequence[Any]], list[tuple[Any, ...]]]
"""The same, where nothing is asynchronous."""

Copy: TypeAlias = Callable[[Any, Iterable[Part]], Awaitable[int]]
"""Runs COPYs on a connection: all, or none if a job is refused. Returns how many rows there are."""

CopySync: TypeAlias = Callable[[Any, Iterable[Part]], int]
"""The same, where nothing is asynchronous."""


Way = TypeVar("Way", Run, RunSync, Copy, CopySync)


@dataclass(frozen=True, eq=False)
class Method(Generic[Way]):
    """One of Queue's: which libraries' connections it takes, and the way for each class of connections."""

    name: str
    drivers: str
    ways: Mapping[str, Way]
    otherwise: str

    def way(self, kind: type) -> Way:
        """The way for connections of this class. Raises UnusableConnection."""
        found: Way = _way(self, kind)
        return found


_WRITE = "with any other driver, write the INSERT: see docs/how-to/insert-jobs.md"
_CALL = "with any other driver, call pushq.enqueue() in SQL: see docs/how-to/keys.md"
INSERT = Method[Run](
    "Queue.insert",
    "asyncpg, psycopg 3 or SQLAlchemy 2",
    {**asyncpg.ASYNC, **psycopg.ASYNC, **sqlalchemy.ASYNC},
    _WRITE,
)
INSERT_SYNC = Method[RunSync](
    "Queue.insert_sync",
    "psycopg 3, SQLAlchemy 2 or Django",
    {**psycopg.SYNC, **sqlalchemy.SYNC, **django.SYNC},
    _WRITE,
)
ENQUEUE = replace(INSERT, name="Queue.enqueue", otherwise=_CALL)
ENQUEUE_SYNC = replace(INSERT_SYNC, name="Queue.enqueue_sync", otherwise=_CALL)
COPY = Method[Copy](
    "Queue.copy", "asyncpg or psycopg 3", {**asyncpg.COPY, **psycopg.COPY}, "with any other, call Queue.insert_many"
)
COPY_SYNC = Method[CopySync](
    "Queue.copy_sync", "psycopg 3", psycopg.COPY_SYNC, "with any other, call Queue.insert_many_sync"
)
_TWINS: Mapping[Any, tuple[Any, str]] = {
    INSERT: (INSERT_SYNC, "call Queue.insert_sync, without await"),
    INSERT_SYNC: (INSERT, "await Queue.insert"),
    ENQUEUE: (ENQUEUE_SYNC, "call Queue.enqueue_sync, without await"),
    ENQUEUE_SYNC: (ENQUEUE, "await Queue.enqueue"),
    COPY: (COPY_SYNC, "call Queue.copy_sync, without await"),
    COPY_SYNC: (COPY, "await Queue.copy"),
}
_REFUSED: Mapping[str, str] = asyncpg.REFUSED | psycopg.REFUSED | sqlalchemy.REFUSED | django.REFUSED


@cache
def _way(method: Method[Any], kind: type) -> Any:
    for classes, way in method.ways.items():
        if _is_among(kind, classes):
            return way
    if method in (INSERT, ENQUEUE) and hasattr(kind, "fetch"):  # a stand-in for one of asyncpg's
        return asyncpg.fetch
    given = "None" if kind is type(None) else f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    raise UnusableConnection(
        f"{method.name} takes a connection of {method.drivers}, not {given}; {_remedy(method, kind)}."
    )


def _remedy(method: Method[Any], kind: type) -> str:
    twin, remedy = _TWINS[method]
    if any(_is_among(kind, classes) for classes in twin.ways):
        return remedy
    return next((remedy for classes, remedy in _REFUSED.items() if _is_among(kind, classes)), method.otherwise)


def _is_among(kind: type, classes: str) -> bool:
    """Whether a class is, or comes from, one of `module.Class module.Class …`."""
    return any(issubclass(kind, one) for one in _imported(classes.split()))


def _imported(names: Iterable[str]) -> Iterable[type]:
    for name in names:
        module, _, attribute = name.rpartition(".")
        found = getattr(sys.modules.get(module), attribute, None)
        if isinstance(found, type):
            yield found
