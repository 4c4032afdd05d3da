"""The tasks of these tests' supervisors, and what the tests change in a pool, which imports them before it begins.

PUSHQ_TEST_CANARY=INTERVAL,PATIENCE: the listener's, in seconds. PUSHQ_TEST_DEADLINE: a statement's. PUSHQ_TEST_DOUBT:
for how long a claim whose reply was lost is in doubt. PUSHQ_TEST_NO_THREADS: a file, while which is there no thread is
to be had. PUSHQ_TEST_PLANTED: a bug.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from contextvars import Context
from functools import partial
from importlib import import_module
from pathlib import Path

import pushq.pool
import pushq.pool.in_doubt
from pushq import current_job
from pushq.database.session import Session
from pushq.pool.listener import Listener
from tests.support.handlers import tasks

__all__ = ["tasks"]


@tasks.register("note")
def note(path: str, seconds: float) -> None:
    """Leaves its job's id in a file, a line a run."""
    with Path(path).open("a") as runs:
        runs.write(f"{current_job().id}\n")
    time.sleep(seconds)


@tasks.register("log")
async def log(lines: int) -> None:
    """As a library does that nobody has told how."""
    for _ in range(lines):
        logging.getLogger("somebody.else").warning("what nobody wants to know, " * 10)


@tasks.register("stop.loop")
async def stop_loop() -> None:
    """Its pool ends by an exception, when standard error takes no more."""
    os.set_blocking(2, False)
    with suppress(BlockingIOError):
        while True:
            os.write(2, b"x" * 4096)
    os.set_blocking(2, True)
    Context().run(asyncio.get_running_loop().stop)


@tasks.register("leave")
async def leave(size: int) -> None:
    async with current_job().artifact("a") as file:
        await file.write(b"x" * size)


def _replace(owner: object, name: str, new: object) -> None:
    assert hasattr(owner, name), f"{owner}.{name} is no more: change it elsewhere"
    setattr(owner, name, new)


async def _believe_in_the_connection(_: Listener) -> None:
    """Sends no canary, and believes that one came back."""


if "PUSHQ_TEST_NO_THREADS" in os.environ:
    import_module("tests.prove.faults.without_threads")
if canary := os.environ.get("PUSHQ_TEST_CANARY"):
    interval, patience = map(float, canary.split(","))
    _replace(pushq.pool, "Listener", partial(Listener, interval=interval, patience=patience))
if deadline := os.environ.get("PUSHQ_TEST_DEADLINE"):
    _replace(pushq.pool, "Session", partial(Session, deadline=float(deadline)))
if doubt := os.environ.get("PUSHQ_TEST_DOUBT"):
    _replace(pushq.pool.in_doubt, "CLAIM_IN_DOUBT", float(doubt))
if os.environ.get("PUSHQ_TEST_PLANTED") == "no-canary":
    _replace(Listener, "_send_canary", _believe_in_the_connection)
