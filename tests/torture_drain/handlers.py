"""The tasks of the torture's supervisors. Each run says when it began and, if it returned, when that was.

PUSHQ_TEST_RUNS: the file to say it to. PUSHQ_TEST_HASTE: to return at once, whatever the task is for.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import anyio

from pushq import Retry, Tasks, current_job
from pushq.backoff import exponential

tasks = Tasks()
soon = exponential(timedelta(milliseconds=50), longest=timedelta(milliseconds=200))

_RUNS = os.open(os.environ["PUSHQ_TEST_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_HASTE = bool(os.environ.get("PUSHQ_TEST_HASTE"))


@contextmanager
def recorded() -> Iterator[None]:
    """One line at the begin and one at the return, each by one write, which a death does not cut in two."""
    job = str(current_job().id)
    _say({"job": job, "began_at": time.monotonic()})
    yield
    _say({"job": job, "returned_at": time.monotonic()})


def _say(line: dict[str, object]) -> None:
    os.write(_RUNS, json.dumps(line).encode() + b"\n")


def _seconds(seconds: float) -> float:
    return 0 if _HASTE else seconds


@tasks.register("nothing")
async def do_nothing() -> None:
    with recorded():
        pass


@tasks.register("nap")
async def nap(seconds: float) -> None:
    with recorded():
        await asyncio.sleep(_seconds(seconds))


@tasks.register("stubborn")
async def ignore_cancellation(seconds: float) -> None:
    with recorded(), anyio.CancelScope(shield=True):
        await asyncio.sleep(_seconds(seconds))


@tasks.register("block")
async def block_the_loop(seconds: float) -> None:
    with recorded():
        time.sleep(_seconds(seconds))  # noqa: ASYNC251 - a handler that does what it must not


@tasks.register("hog")
async def keep_the_loop() -> None:
    with recorded():
        time.sleep(_seconds(60))  # noqa: ASYNC251


@tasks.register("thread")
def nap_in_a_thread(seconds: float) -> None:
    with recorded():
        time.sleep(_seconds(seconds))


@tasks.register("snooze", max_attempts=1)
async def snooze() -> None:
    with recorded():
        if not _HASTE:
            raise Retry(after=timedelta(milliseconds=20))


@tasks.register("fail", max_attempts=10_000, backoff=soon)
async def fail() -> None:
    with recorded():
        if not _HASTE:
            raise ValueError("as it was told to")
