"""How a transactional handler gets its job's connection: from the pool, or in a test from whoever calls the handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

from pushq.errors import PushqError

Fence: TypeAlias = tuple[UUID, UUID]
"""A job's id and the token of a claim."""

Begin: TypeAlias = Callable[[], Awaitable[Any]]
"""Begins the transaction of a claim, if the handler asks for the first time, and returns the connection."""

transactions: dict[Fence, Begin] = {}
"""By claim, while the handler of a transactional task runs."""


def transaction_of(fence: Fence, task: str) -> Awaitable[Any]:
    """The connection of a claim's transaction. Raises PushqError where there is none."""
    begin = transactions.get(fence)
    if begin is None:
        raise PushqError(
            f"Task {task!r} has no connection here: register the task with transactional=True, and ask for the "
            "connection before the handler returns; in a test, give one by pushq.testing.run(…, connection=…)."
        )
    return begin()
