"""Async generators that yield once, as context managers. Errors name the generator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import TracebackType
from typing import Any

from pushq.errors import TasksError
from pushq.handler import place_of


def yielding_once(
    kind: str, function: Callable[..., AsyncIterator[Any]]
) -> Callable[..., AbstractAsyncContextManager[Any]]:
    """As contextlib's asynccontextmanager. kind: of the decorator, `lifespan` or `middleware`.

    Entering and leaving raise TasksError if the generator does not yield exactly once.
    """
    around = asynccontextmanager(function)

    @wraps(function)
    def make(*args: Any) -> _Once:
        return _Once(around(*args), f"@tasks.{kind}: {place_of(function)}")

    return make


class _Once(AbstractAsyncContextManager[Any]):
    __slots__ = ("_inner", "_subject")

    def __init__(self, inner: AbstractAsyncContextManager[Any], subject: str) -> None:
        self._inner = inner
        self._subject = subject

    async def __aenter__(self) -> Any:
        try:
            return await self._inner.__aenter__()
        except RuntimeError as error:
            if str(error) != "generator didn't yield":
                raise
            raise TasksError(f"{self._subject} has ended without a `yield`; each way through it yields once.") from None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, error, traceback)
        except RuntimeError as fault:
            if not str(fault).startswith("generator didn't stop"):
                raise
            raise TasksError(f"{self._subject} has yielded a second time; each way through it yields once.") from error
