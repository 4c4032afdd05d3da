"""Waiting for a condition, with a deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from pushq.errors import PushqError


async def wait_until(look: Callable[[], Awaitable[bool]], otherwise: str, *, within: float, every: float = 0.1) -> None:
    """Waits until `look` returns True; looks `every` so many seconds.

    Raises PushqError(otherwise) after `within` seconds.
    """
    with anyio.move_on_after(within):
        while True:
            if await look():
                return
            await anyio.sleep(every)
    raise PushqError(f"{otherwise} within {within:g} s.")
