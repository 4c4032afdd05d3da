"""The benchmark's handlers, for `pushq supervise pushq.bench.tasks:tasks`."""

from __future__ import annotations

import time
from pathlib import Path

import anyio

from pushq.current import current_job
from pushq.task import Tasks

tasks = Tasks()


@tasks.register("bench.noop")
async def noop() -> None:
    """Does nothing, so that only pushq is measured."""


@tasks.register("bench.stamp")
async def stamp() -> float:
    """The handler's start, by the machine's monotonic clock, which all processes share."""
    return time.monotonic()


@tasks.register("bench.sleep")
async def sleep(seconds: float) -> None:
    """Keeps a worker busy, but no core."""
    await anyio.sleep(seconds)


@tasks.register("bench.begin", transactional=True)
async def begin() -> None:
    """Only begins the transaction that ends the job."""
    await current_job().connection()


@tasks.register("bench.effect", transactional=True)
async def effect() -> None:
    """Writes a row in the transaction that ends the job."""
    job = current_job()
    await (await job.connection()).execute("insert into public.effects (job) values ($1)", job.id)


@tasks.register("bench.until_cancelled")
async def until_cancelled(file: str) -> None:
    """Waits to be cancelled. Writes to the file when the wait began, and when the wait was cancelled."""
    _note_instant(file)
    try:
        await anyio.sleep_forever()
    finally:
        _note_instant(file)


def _note_instant(file: str) -> None:
    now = time.monotonic()
    with Path(file).open("a") as notes:
        notes.write(f"{current_job().id} {now}\n")
