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
        await asyncio.sleep(_pause(deadline - within))
    return answer


def wait_until(look: Callable[[], T], *, within: float = 10.0) -> T:
    """The same, where nothing is asynchronous."""
    deadline = time.monotonic() + within
    while not (answer := look()):
        assert time.monotonic() < deadline, f"It did not come true in {within:g} s; the last answer: {answer!r}"
        time.sleep(_pause(deadline - within))
    return answer


def _pause(began: float) -> float:
    """Seconds to the next look, a tenth of the time waited so far: many who wait at once take little time to look."""
    return min(0.05, max(0.01, (time.monotonic() - began) / 10))
