"""Waiting for what must come true, with a deadline, in place of sleeping and hoping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], *, within: float = 10.0) -> T:
    """The first truthy answer. within: seconds."""
    deadline = time.monotonic() + within
    while not (answer := await look()):
        assert time.monotonic() < deadline, f"It did not come true in {within:g} s; the last answer: {answer!r}"
        await asyncio.sleep(0.01)
    return answer


def wait_until(look: Callable[[], T], *, within: float = 10.0) -> T:
    """The same, where nothing is asynchronous."""
    deadline = time.monotonic() + within
    while not (answer := look()):
        assert time.monotonic() < deadline, f"It did not come true in {within:g} s; the last answer: {answer!r}"
        time.sleep(0.01)
    return answer
