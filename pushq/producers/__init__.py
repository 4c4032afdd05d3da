"""Finds how the INSERT is run on a connection of the caller's, whichever driver's it is.

No driver is imported here. Whoever gives a connection has imported its driver, so the driver's classes are looked up
among the modules that are imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias
from uuid import UUID

from pushq.errors import UnusableConnection
from pushq.producers import asyncpg, django, psycopg, sqlalchemy
from pushq.producers.rows import Part

Run: TypeAlias = Callable[[Any, str, Sequence[list[Any]]], Awaitable[list[UUID]]]
"""Runs a statement with parameters $1, $2, … on a connection, in its transaction. Returns the ids of its rows."""

RunSync: TypeAlias = Callable[[Any, str, Sequence[list[Any]]], list[UUID]]
"""The same, where nothing is asynchronous."""

Copy: TypeAlias = Callable[[Any, Iterable[Part]], Awaitable[int]]
"""Runs COPYs on a connection: all, or none if a job is refused. Returns how many rows there are."""

CopySync: TypeAlias = Callable[[Any, Iterable[Part]], int]
"""The same, where nothing is asynchronous."""


@dataclass(frozen=True, eq=False)
class _Method:
    """One of Queue's: which libraries' connections it takes, and the way for each class of connections."""

    name: str
    drivers: str
    ways: Mapping[str, Any]
    otherwise: str


_WRITE = "write the INSERT: see docs/how-to/insert-jobs.md"
_INSERT = _Method(
    "Queue.insert",
    "asyncpg, psycopg 3 or SQLAlchemy 2",
    {**asyncpg.ASYNC, **psycopg.ASYNC, **sqlalchemy.ASYNC},
    f"with any other driver, {_WRITE}",
)
_INSERT_SYNC = _Method(
    "Queue.insert_sync",
    "psycopg 3, SQLAlchemy 2 or Django",
    {**psycopg.SYNC, **sqlalchemy.SYNC, **django.SYNC},
    f"with any other driver, {_WRITE}",
)
_COPY = _Method(
    "Queue.copy", "asyncpg or psycopg 3", {**asyncpg.COPY, **psycopg.COPY}, "with any other, call Queue.insert_many"
)
_COPY_SYNC = _Method("Queue.copy_sync", "psycopg 3", psycopg.COPY_SYNC, "with any other, call Queue.insert_many_sync")
_TWINS = {
    _INSERT: (_INSERT_SYNC, "call Queue.insert_sync, without await"),
    _INSERT_SYNC: (_INSERT, "await Queue.insert"),
    _COPY: (_COPY_SYNC, "call Queue.copy_sync, without await"),
    _COPY_SYNC: (_COPY, "await Queue.copy"),
}
_REFUSED: Mapping[str, str] = asyncpg.REFUSED | psycopg.REFUSED | sqlalchemy.REFUSED | django.REFUSED


def runner(kind: type) -> Run:
    """How a connection of this class runs a statement. Raises UnusableConnection."""
    way: Run = _way(_INSERT, kind)
    return way


def sync_runner(kind: type) -> RunSync:
    """How a connection of this class runs a statement, where nothing is asynchronous. Raises UnusableConnection."""
    way: RunSync = _way(_INSERT_SYNC, kind)
    return way


def copier(kind: type) -> Copy:
    """How a connection of this class runs COPYs. Raises UnusableConnection."""
    way: Copy = _way(_COPY, kind)
    return way


def sync_copier(kind: type) -> CopySync:
    """How a connection of this class runs COPYs, where nothing is asynchronous. Raises UnusableConnection."""
    way: CopySync = _way(_COPY_SYNC, kind)
    return way


@cache
def _way(method: _Method, kind: type) -> Any:
    for classes, way in method.ways.items():
        if _is_among(kind, classes):
            return way
    if method is _INSERT and hasattr(kind, "fetch"):  # a stand-in for one of asyncpg's
        return asyncpg.fetch
    given = "None" if kind is type(None) else f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    raise UnusableConnection(
        f"{method.name} takes a connection of {method.drivers}, not {given}; {_remedy(method, kind)}."
    )


def _remedy(method: _Method, kind: type) -> str:
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
