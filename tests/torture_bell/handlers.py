"""The tasks of the torture's supervisors.

Importing them makes the pool pause between its steps, and plants the bug that PUSHQ_TEST_PLANTED names, if any.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta

from pushq import Retry, Tasks, current_job
from tests.torture_bell.pauses import pause_between_steps
from tests.torture_bell.planted import plant

tasks = Tasks()


@tasks.register("bell.nothing")
async def do_nothing() -> None:
    """What most jobs do: picking them up is the point."""


@tasks.register("bell.nap")
async def nap(seconds: float) -> None:
    """Holds its worker; a few at once hold all of a pool's, which then shuts its gates."""
    await asyncio.sleep(seconds)


@tasks.register("bell.snooze")
async def snooze(seconds: float) -> None:
    """Comes back once, after a while that no INSERT announces."""
    if current_job().attempt == 1:
        raise Retry(after=timedelta(seconds=seconds))


pause_between_steps()
if bug := os.environ.get("PUSHQ_TEST_PLANTED"):
    plant(bug)
