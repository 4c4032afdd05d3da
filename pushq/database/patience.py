"""Waiting the database out: the one place that knows how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from math import inf
from typing import TypeVar

import anyio

from pushq.backoff import exponential
from pushq.errors import DatabaseAway, DatabaseRefused
from pushq.events import DatabaseBack, DatabaseLost, publish

T = TypeVar("T")

reconnect_delay = exponential(timedelta(milliseconds=100), longest=timedelta(seconds=5))


async def wait_out(call: Callable[[], Awaitable[T]], *, longest: float = inf) -> T:
    """Calls until the database answers. Whoever calls twice must not mind that the first call may have been done.

    longest: seconds between two calls, at most.
    """
    lost_at = anyio.current_time()
    for failures in count():
        try:
            answer = await call()
        except (DatabaseAway, DatabaseRefused) as error:
            publish(DatabaseLost(str(error)))
            await anyio.sleep(min(reconnect_delay(failures + 1).total_seconds(), longest))
        else:
            if failures:
                publish(DatabaseBack(anyio.current_time() - lost_at))
            return answer
    raise AssertionError("count() does not end")
