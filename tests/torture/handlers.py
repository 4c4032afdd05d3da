"""The tasks of the torture's hosts. Each run says when it began and ended, on the machine's one monotonic clock.

Importing them plants the bug that PUSHQ_TEST_PLANTED names, if any.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio

from pushq import Job, Retry, Tasks, current_job
from pushq.backoff import exponential
from tests.torture.planted import plant
from tests.torture.schedule import ALLOWED

tasks = Tasks()
soon = exponential(timedelta(milliseconds=50), longest=timedelta(milliseconds=200))

# That naps do not use time.sleep is for libfaketime's sake, under which it raises an error.
_LOG = os.open(os.environ["PUSHQ_TEST_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_HOST = int(os.environ["PUSHQ_TEST_HOST"])
_NO_THREADS = Path(os.environ["PUSHQ_TEST_NO_THREADS"])

_run_in_thread = anyio.to_thread.run_sync


async def _run_in_thread_if_there_is_one(*arguments: Any, **how: Any) -> Any:
    is_the_pool_s_own = arguments[0] is int
    if _NO_THREADS.exists() and not is_the_pool_s_own:
        with suppress(FileNotFoundError):
            asked = os.open(_NO_THREADS, os.O_WRONLY | os.O_APPEND)
            os.write(asked, b".")
            os.close(asked)
        raise RuntimeError("can't start new thread")
    return await _run_in_thread(*arguments, **how)


setattr(anyio.to_thread, "run_sync", _run_in_thread_if_there_is_one)  # noqa: B010 - mypy would compare the signatures


@contextmanager
def recorded(
    lasts: float = 0.0, of: Job | None = None, files: dict[str, str] | None = None
) -> Iterator[list[Exception]]:
    """One line at the begin and one at the end, each by one write, which a death does not cut in two.

    lasts: for how many seconds it means to run, which faults go by. of: a job of a batch. files: what it says of its
    artifacts in the end. Yields a list for the error that a batch returns in place of raising it.
    """
    job, began_at, errors = of or current_job(), time.monotonic(), list[Exception]()
    run = {"job": str(job.id), "attempt": job.attempt, "token": str(job.token), "host": _HOST, "pid": os.getpid()}
    run |= {"began_at": began_at}
    _say(run | {"wall": time.time(), "lasts": lasts})
    returned = False
    try:
        yield errors
        returned = not errors
    finally:
        _say(run | {"ended_at": time.monotonic(), "returned": returned, "files": files or {}})


def _say(line: dict[str, object]) -> None:
    os.write(_LOG, json.dumps(line).encode() + b"\n")


@tasks.register("nothing")
async def do_nothing() -> None:
    with recorded():
        pass


@tasks.register("nap")
async def nap(seconds: float) -> dict[str, str]:
    """Says, as its result, under which claim it ran."""
    with recorded(seconds):
        await asyncio.sleep(seconds)
    return {"token": str(current_job().token)}


@tasks.register("hold", max_attempts=ALLOWED["hold"], backoff=soon)
async def hold(seconds: list[float], fails: bool = False) -> None:
    """Naps at each attempt for as long as is said of the attempt, and may fail at first."""
    job = current_job()
    lasts = seconds[min(job.attempt, len(seconds)) - 1]
    with recorded(lasts):
        await asyncio.sleep(lasts)
        if fails and job.failures == 0:
            raise ValueError(f"as it was told to, under token {job.token}")


@tasks.register("tidy")
async def tidy_up(seconds: float, dies: bool = False) -> None:
    """Naps, and takes a while to stop; or kills its process when it is to stop."""
    with recorded(seconds):
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if dies:
                os._exit(3)
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.3)
            raise


@tasks.register("deaf", max_attempts=ALLOWED["deaf"], backoff=soon)
async def fail_and_hear_nothing(seconds: float) -> None:
    """Fails before its pool can hear that the job was cancelled meanwhile."""
    with recorded():
        threading.Event().wait(seconds)
        raise ValueError(f"as it was told to, under token {current_job().token}")


@tasks.register("thread")
def nap_in_a_thread(seconds: float) -> float:
    with recorded(seconds):
        threading.Event().wait(seconds)
    return seconds


@tasks.register("block")
async def block_the_loop(seconds: float) -> None:
    with recorded():
        threading.Event().wait(seconds)  # a handler that does what it must not


@tasks.register("fail", backoff=soon)
async def fail() -> None:
    with recorded():
        raise ValueError(f"as it was told to, under token {current_job().token}")


@tasks.register("fail.once", max_attempts=ALLOWED["fail.once"], backoff=soon)
async def fail_once() -> None:
    with recorded():
        if current_job().failures == 0:
            raise ValueError("the first time")


@tasks.register("snooze", max_attempts=ALLOWED["snooze"])
async def snooze(seconds: float) -> None:
    with recorded():
        if current_job().attempt == 1:
            raise Retry(after=timedelta(seconds=seconds))


@tasks.register("stubborn", max_attempts=ALLOWED["stubborn"], timeout=timedelta(seconds=0.3), backoff=soon)
async def ignore_cancellation(seconds: float) -> None:
    with recorded(), anyio.CancelScope(shield=True):
        await asyncio.sleep(seconds)


@tasks.register("die")
async def die(way: str) -> None:
    """Kills its process, whoever else is running in it."""
    with recorded():
        if way == "exit":
            os._exit(3)
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV, "abort": signal.SIGABRT}[way])


@tasks.register("poison", max_attempts=ALLOWED["poison"], backoff=soon)
async def poison(kind: str) -> object:
    """Returns or raises what cannot be stored as it is."""
    with recorded():
        if kind == "error":
            raise ValueError("nul \x00, lone surrogate \ud800, and " + "long " * 10_000)
        return {"nan": float("nan"), "object": object(), "nul": "a\x00b", "large": "x" * 2_000_000}[kind]


@tasks.register("large")
async def take_a_large_payload(text: str) -> int:
    with recorded():
        return len(text)


@tasks.register("files", max_attempts=ALLOWED["files"], backoff=soon)
async def leave_files(sizes: list[int], seconds: float, ends: str = "returns") -> dict[str, str]:
    """Leaves files of these sizes with its job. Each takes a part of the seconds, another at each attempt.

    ends: at its first attempt, `fails` or `dies` while it writes the last file.
    """
    job, files = current_job(), dict[str, str]()
    chance = random.Random(f"{job.token}")
    with recorded(seconds, files=files):
        for place, size in enumerate(sizes):
            content, pause = chance.randbytes(size), chance.uniform(0, seconds / len(sizes))
            async with job.artifact(f"{place}.bin") as file:
                await file.write(content[: size // 2])
                if place == len(sizes) - 1 and job.attempt == 1:
                    _end_early(ends)
                await asyncio.sleep(pause / 2)
                await file.write(content[size // 2 :])
                await asyncio.sleep(pause / 2)
            files[f"{place}.bin"] = f"{size} {hashlib.sha256(content).hexdigest()}"
    return {"token": str(job.token)}


def _end_early(ends: str) -> None:
    if ends == "dies":
        os._exit(3)
    if ends == "fails":
        raise ValueError(f"as it was told to, under token {current_job().token}")


@tasks.register("batch", batch=40, max_attempts=ALLOWED["batch"], backoff=soon)
async def in_batches(jobs: list[Job[dict[str, Any]]]) -> list[object]:
    """Each job ends as its payload says: with a nap, by an error at first, or by a snooze at first."""
    with ExitStack() as runs:
        errors = [runs.enter_context(recorded(job.payload["seconds"], job)) for job in jobs]
        await asyncio.sleep(max(job.payload["seconds"] for job in jobs))
        for job, mine in zip(jobs, errors, strict=True):
            if job.payload["how"] == "fail" and job.failures == 0:
                mine.append(ValueError(f"as it was told to, under token {job.token}"))
            elif job.payload["how"] == "snooze" and job.attempt == 1:
                mine.append(Retry(after=timedelta(milliseconds=20)))
    return [mine[0] if mine else {"token": str(job.token)} for job, mine in zip(jobs, errors, strict=True)]


plant(os.environ.get("PUSHQ_TEST_PLANTED"))
