"""The benchmark's handlers, for `pushq supervise pushq.bench.tasks:tasks`."""

from __future__ import annotations

import time

import anyio

from pushq.task import Tasks

tasks = Tasks()


@tasks.register("bench.noop")
async def noop() -> None:
    """Nothing: what is left is pushq."""


@tasks.register("bench.stamp")
async def stamp() -> float:
    """When it began, by the machine's monotonic clock, which all its processes share."""
    return time.monotonic()


@tasks.register("bench.sleep")
async def sleep(seconds: float) -> None:
    """Keeps a worker busy, and no core."""
    await anyio.sleep(seconds)
