"""Tasks whose lifespan and middleware do what TEST_LIFESPAN and TEST_MIDDLEWARE say, and write TEST_DIARY."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import anyio

from pushq import Cancel, Job, Resource, Retry, Tasks, current_job, injected

tasks = Tasks()
LIFESPAN = os.environ.get("TEST_LIFESPAN", "works")
MIDDLEWARE = os.environ.get("TEST_MIDDLEWARE", "")
tenant = contextvars.ContextVar("tenant", default="nobody")


@dataclass
class Shared:
    greeting: str
    uses: int = 0


def note(line: str) -> None:
    with Path(os.environ["TEST_DIARY"]).open("a") as diary:
        diary.write(f"{line}\n")


@tasks.lifespan
async def shared() -> AsyncIterator[object]:
    note(f"enter {os.getpid()}")
    if LIFESPAN == "raises when entered":
        raise ConnectionError("no such host")
    if LIFESPAN == "hangs when entered":
        await asyncio.sleep(3600)
    tenant.set("set by the lifespan")
    try:
        async with anyio.create_task_group() as group:  # as many a client's own
            if LIFESPAN == "breaks":
                group.start_soon(_break)
            group.start_soon(asyncio.sleep, 3600)
            yield "a greeting" if LIFESPAN == "misfits" else Shared("hello")
            group.cancel_scope.cancel()
    finally:
        note("leave")
        if LIFESPAN == "raises when left":
            raise OSError("cannot be closed")
        if LIFESPAN == "hangs when left":
            await asyncio.sleep(3600)
        await asyncio.sleep(0.05)
        note("left")


async def _break() -> None:
    while not Path(os.environ["TEST_DIARY"] + ".break").exists():  # noqa: ASYNC110 - a file sets no event
        await asyncio.sleep(0.01)
    raise RuntimeError("the client is gone")


if MIDDLEWARE:

    @tasks.middleware
    async def around(job: Job) -> AsyncIterator[None]:
        if MIDDLEWARE == "raises before":
            raise KeyError("before")
        tenant.set(f"set for {job.task} as {current_job().task}")
        try:
            yield
        except BaseException as error:
            note(f"saw {type(error).__name__}")
            if MIDDLEWARE == "replaces":
                raise LookupError("another") from error
            if MIDDLEWARE != "swallows":
                raise
        else:
            note("saw success")
        if MIDDLEWARE == "raises after":
            raise KeyError("after")


@tasks.register("greet")
async def greet(name: str, shared: Resource[Shared] = injected) -> str:
    shared.uses += 1
    assert current_job().resources is shared
    return f"{shared.greeting} {name}"


@tasks.register("greet.thread")
def greet_in_thread(name: str, *, shared: Resource[Shared]) -> str:
    assert current_job().resources is shared
    return f"{shared.greeting} {name}"


@tasks.register("tenant")
async def tenant_here() -> str:
    current_job().logger.warning("for %s", tenant.get())
    return tenant.get()


@tasks.register("tenant.thread")
def tenant_in_thread() -> str:
    return tenant.get()


@tasks.register("raise", max_attempts=1)
async def raises() -> None:
    raise ValueError("no")


@tasks.register("raise.thread", max_attempts=1)
def raises_in_thread() -> None:
    raise ValueError("no")


@tasks.register("cancel")
async def cancels() -> None:
    raise Cancel("not needed")


@tasks.register("retry.thread")
def retries_in_thread() -> str:
    if current_job().attempt == 1:
        raise Retry(after=timedelta(0))
    return "at last"


@tasks.register("sleep", timeout=timedelta(seconds=0.2), max_attempts=1)
async def sleep() -> None:
    await asyncio.sleep(3600)


@tasks.register("long")
async def long() -> None:
    note("begun")
    await asyncio.sleep(3600)


@tasks.register("long.thread")
def long_in_thread() -> str:
    note("begun")
    time.sleep(0.5)
    return "slept"
