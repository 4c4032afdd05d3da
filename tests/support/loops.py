"""Tests on the event loop of a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps

import anyio
from anyio import to_thread

from pushq.pool.loop import PoolLoop


def on_a_pool_s_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PoolLoop)
        await to_thread.run_sync(int)
        loop.hide_tasks()
        await test()

    @wraps(test)
    def runs() -> None:
        anyio.run(run, backend_options={"loop_factory": PoolLoop})

    del runs.__wrapped__  # or pytest would see a coroutine function
    return runs
