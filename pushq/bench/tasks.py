"""The benchmark's handlers, for `pushq supervise pushq.bench.tasks:tasks`."""

from __future__ import annotations

import time

import anyio

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
