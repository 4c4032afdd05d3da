"""pushq's handlers in the comparison."""

from __future__ import annotations

import os

from pushq.bench.peers.driver import Tally
from pushq.task import Tasks

TALLY, JOBS = "BENCH_TALLY", "BENCH_JOBS"
"""Environment variables: the tally's file, and how many jobs there are."""

tasks = Tasks()
_tally = Tally(os.environ[TALLY], int(os.environ[JOBS])) if TALLY in os.environ else None


@tasks.register("noop")
async def noop(number: int) -> None:  # noqa: ARG001 - the others' jobs have it too
    assert _tally
    _tally.executed()


@tasks.register("stamp")
async def stamp(number: int) -> None:
    assert _tally
    _tally.picked_up(number)
