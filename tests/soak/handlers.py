"""The tasks of the soak: what handlers do all day."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from datetime import timedelta

from pushq import Retry, Tasks, current_job
from pushq.backoff import exponential

tasks = Tasks()
soon = exponential(timedelta(milliseconds=50), longest=timedelta(milliseconds=200))
_last = contextvars.ContextVar[str]("last")


@tasks.register("nothing")
async def do_nothing() -> None:
    """What most jobs do."""


@tasks.register("nap")
async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"


@tasks.register("thread")
def digest_in_a_thread(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@tasks.register("fail.once", backoff=soon)
async def fail_once() -> None:
    if current_job().failures == 0:
        raise ValueError("the first time")


@tasks.register("snooze")
async def snooze() -> None:
    if current_job().attempt == 1:
        raise Retry(after=timedelta(seconds=0.1))


@tasks.register("slow", max_attempts=1, timeout=timedelta(seconds=0.1))
async def take_too_long() -> None:
    await asyncio.sleep(60)


@tasks.register("context")
async def leave_something_in_the_context() -> None:
    _last.set("x" * 10_000)


@tasks.register("background")
async def leave_a_task_behind() -> None:
    asyncio.get_running_loop().call_later(0.05, str)
