"""Finds how the INSERT is run on a connection of the caller's, whichever driver's it is.

No driver is imported here. Whoever gives a connection has imported its driver, so the driver's classes are looked up
among the modules that are imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias
from uuid import UUID

from pushq.errors import UnusableConnection
from pushq.producers import asyncpg, django, psycopg, sqlalchemy

Run: TypeAlias = Callable[[Any, str, Sequence[list[Any]]], Awaitable[list[UUID]]]
"""Runs a statement with parameters $1, $2, … on a connection, in its transaction. Returns the ids of its rows."""

RunSync: TypeAlias = Callable[[Any, str, Sequence[list[Any]]], list[UUID]]
"""The same, where nothing is asynchronous."""


_ASYNC: Mapping[str, Run] = {**asyncpg.ASYNC, **psycopg.ASYNC, **sqlalchemy.ASYNC}
_SYNC: Mapping[str, RunSync] = {**psycopg.SYNC, **sqlalchemy.SYNC, **django.SYNC}
_REFUSED: Mapping[str, str] = asyncpg.REFUSED | psycopg.REFUSED | sqlalchemy.REFUSED | django.REFUSED


@cache
def runner(kind: type) -> Run:
    """How a connection of this class runs a statement. Raises UnusableConnection."""
    for classes, run in _ASYNC.items():
        if _is_among(kind, classes):
            return run
    if hasattr(kind, "fetch"):  # a stand-in for one of asyncpg's
        return asyncpg.fetch
    raise _unusable("Queue.insert", "asyncpg, psycopg 3 or SQLAlchemy 2", kind, "with any other driver")


@cache
def sync_runner(kind: type) -> RunSync:
    """How a connection of this class runs a statement, where nothing is asynchronous. Raises UnusableConnection."""
    for classes, run in _SYNC.items():
        if _is_among(kind, classes):
            return run
    raise _unusable("Queue.insert_sync", "psycopg 3, SQLAlchemy 2 or Django", kind, "with any other driver")


def _unusable(method: str, drivers: str, kind: type, otherwise: str) -> UnusableConnection:
    given = "None" if kind is type(None) else f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    remedy = _remedy(method, kind) or f"{otherwise}, write the INSERT: see docs/how-to/insert-jobs.md"
    return UnusableConnection(f"{method} takes a connection of {drivers}, not {given}; {remedy}.")


def _remedy(method: str, kind: type) -> str:
    if method == "Queue.insert" and any(_is_among(kind, classes) for classes in _SYNC):
        return "call Queue.insert_sync, without await"
    if method == "Queue.insert_sync" and any(_is_among(kind, classes) for classes in _ASYNC):
        return "await Queue.insert"
    return next((remedy for classes, remedy in _REFUSED.items() if _is_among(kind, classes)), "")


def _is_among(kind: type, classes: str) -> bool:
    """Whether a class is, or comes from, one of `module.Class module.Class …`."""
    return any(issubclass(kind, one) for one in _imported(classes.split()))


def _imported(names: Iterable[str]) -> Iterable[type]:
    for name in names:
        module, _, attribute = name.rpartition(".")
        found = getattr(sys.modules.get(module), attribute, None)
        if isinstance(found, type):
            yield found
