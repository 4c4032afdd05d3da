"""The tasks of the tests' supervisors."""

from __future__ import annotations

import asyncio
import decimal
import io
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any
from weakref import WeakSet

import anyio
import anyio.from_thread

from pushq import Cancel, Detach, Job, Retry, Tasks, current_job
from pushq.backoff import exponential
from pushq.errors import PushqError

tasks = Tasks()
at_once = exponential(timedelta(milliseconds=1), longest=timedelta(milliseconds=2))


@tasks.register("echo")
async def echo(**payload: object) -> dict[str, object]:
    return payload


@tasks.register("attempts", max_attempts=3, backoff=at_once)
async def attempts() -> int:
    return current_job().attempt


@tasks.register("sleep")
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@tasks.register("load")
async def load(seconds: float) -> bool:
    """Whether the worker must load what the job needs."""
    await anyio.sleep(seconds)
    return current_job().affinity_changed


@tasks.register("sleep.thread")
def sleep_in_thread(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@tasks.register("block")
async def block(seconds: float) -> str:
    time.sleep(seconds)  # noqa: ASYNC251 - a handler that does what it must not
    return "blocked"


@tasks.register("compute.in.c")
def compute_in_c() -> None:
    """For ages, and no other thread runs meanwhile."""
    re.match("(a+)+$", "a" * 60 + "b")


@tasks.register("until.cancelled")
async def until_cancelled(stubborn: int = 0) -> str:
    """Notes each cancellation, and heeds it when it has been stubborn often enough."""
    for times in range(1, stubborn + 2):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            current_job().logger.warning("cancelled %d", times)
            if times > stubborn:
                raise
    return "in the end"


@tasks.register("until.told")
def until_told() -> str:
    """In a thread."""
    while not current_job().cancelled:
        time.sleep(0.005)
    current_job().logger.warning("told")
    return "told"


@tasks.register("until.checked")
def until_checked() -> None:
    """In a thread, by the way of anyio."""
    while True:
        anyio.from_thread.check_cancelled()
        time.sleep(0.005)


@tasks.register("detach")
async def detach(seconds: float, times: int = 100) -> Detach | str:
    return Detach(timedelta(seconds=seconds)) if current_job().attempt <= times else "stayed"


@tasks.register("detach.late")
async def detach_late(seconds: float) -> Detach:
    await asyncio.sleep(seconds)
    return Detach(timedelta(minutes=1))


@tasks.register("typed")
async def typed(user_id: int, name: str = "nobody") -> dict[str, object]:
    return {"user_id": user_id, "name": name}


@tasks.register("fail", max_attempts=3, backoff=at_once)
async def fail(message: str = "no") -> None:
    raise ValueError(message)


@tasks.register("fail.until", max_attempts=10, backoff=at_once)
async def fail_until(attempt: int) -> int:
    if current_job().attempt < attempt:
        raise ValueError("not yet")
    return current_job().attempt


@tasks.register("raise.hostile", max_attempts=1)
async def raise_hostile() -> None:
    raise ValueError("nul \x00, lone surrogate \ud800, and " + "long " * 10_000)


@tasks.register("raise.text", max_attempts=1)
async def raise_text(text: str) -> None:
    """text: as JSON, in which anything can travel."""
    raise ValueError(json.loads(text))


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@tasks.register("raise.unsayable", max_attempts=1)
async def raise_unsayable() -> None:
    raise Unsayable


@tasks.register("raise.long", max_attempts=1)
async def raise_long(characters: int) -> None:
    raise ValueError("x" * characters)


@tasks.register("raise.exit", max_attempts=1)
async def raise_exit() -> None:
    raise SystemExit(3)


@tasks.register("snooze", max_attempts=1)
async def snooze(times: int) -> int:
    if current_job().attempt <= times:
        raise Retry(after=timedelta(milliseconds=1))
    return current_job().attempt


@tasks.register("cancel.own.task", max_attempts=1)
async def cancel_own_task(after: float, waits: float) -> str:
    """Cancels the task that it runs in, at once or by a timer that may outlive it. after, waits: seconds."""
    task = asyncio.current_task()
    assert task
    if after:
        asyncio.get_running_loop().call_later(after, task.cancel)
    else:
        task.cancel()
    if waits:
        await asyncio.sleep(waits)
    return "returned"


@tasks.register("cancel.own.task.often", max_attempts=1)
async def cancel_own_task_often(seconds: float) -> None:
    """By timers that outlive it."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    for instant in range(10, round(1000 * seconds), 10):
        loop.call_later(instant / 1000, task.cancel)


left_open = list[object]()


@tasks.register("leave.scope.open", max_attempts=1)
async def leave_scope_open(kind: str) -> str:
    if kind == "generator":
        async for _ in _generate_in_a_group():
            break
        return "returned"
    scope = _SCOPES[kind]()
    left_open.append(scope.__enter__())
    if kind.startswith("cancelled"):
        scope.cancel()
    if kind == "cancelled twice" and (task := asyncio.current_task()):
        task.cancel()
    if kind in ("ends sooner", "stays"):
        await anyio.sleep(60)
    return "returned"


_SCOPES: dict[str, Callable[[], anyio.CancelScope]] = {
    "plain": anyio.CancelScope,
    "stays": anyio.CancelScope,
    "shield": partial(anyio.CancelScope, shield=True),
    "cancelled": anyio.CancelScope,
    "cancelled twice": anyio.CancelScope,
    "ends later": partial(anyio.move_on_after, 0.3),
    "ends sooner": partial(anyio.move_on_after, 0.1),
}


@tasks.register("leave.group.open", max_attempts=1)
async def leave_group_open() -> str:
    """And in it a child that outlives its parent, and fails."""
    group = await anyio.create_task_group().__aenter__()
    group.start_soon(_fail_after, 0.1)
    return "returned"


async def _fail_after(seconds: float) -> None:
    await anyio.sleep(seconds)
    raise ValueError("in the background")


async def _generate_in_a_group() -> AsyncIterator[int]:
    async with anyio.create_task_group():
        yield 1
        yield 2


@tasks.register("ask.whether.cancelled", max_attempts=1)
def ask_whether_cancelled(seconds: float) -> str:
    """As a `def` may that would end early."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        anyio.from_thread.check_cancelled()
        time.sleep(0.01)
    return "was not cancelled"


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
kept = list[object]()
known = WeakSet[Any]()


@tasks.register("leave.behind", max_attempts=1)
async def leave_behind(kind: str, waits: bool) -> str:
    """Leaves in its task, in its context or in the loop what could meet another job, a little later or at once."""
    tenant.set("acme")
    decimal.getcontext().prec = 3
    task = asyncio.current_task()
    assert task
    _LEAVINGS[kind](asyncio.get_running_loop(), task)
    if waits:
        await asyncio.sleep(0.01)
    return "returned"


def _cancel_ever_again(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    for instant in range(15, 1000, 5):
        loop.call_later(instant / 1000, task.cancel)


def _cancel_from_a_thread(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    threading.Timer(0.1, loop.call_soon_threadsafe, (task.cancel,)).start()


def _be_known(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """As in a set of what a library is to cancel at the end."""
    known.add(task)
    for instant in range(15, 1000, 50):
        loop.call_later(instant / 1000, lambda: [one.cancel() for one in known])


def _leave_a_timeout(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    del task
    timeout = asyncio.timeout_at(loop.time() + 0.1)
    kept.append(timeout)
    with suppress(StopIteration):
        timeout.__aenter__().send(None)


def _leave_a_child(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    async def cancel_parent() -> None:
        await asyncio.sleep(0.1)
        task.cancel()

    kept.append(loop.create_task(cancel_parent()))


_LEAVINGS: dict[str, Callable[[asyncio.AbstractEventLoop, asyncio.Task[Any]], object]] = {
    "nothing": lambda *_: None,
    "timers": _cancel_ever_again,
    "thread": _cancel_from_a_thread,
    "name": _be_known,
    "timeout": _leave_a_timeout,
    "child": _leave_a_child,
    "scope": lambda *_: kept.append(anyio.move_on_after(0.1).__enter__()),
}


@tasks.register("look.around", max_attempts=1)
async def look_around() -> list[object]:
    await asyncio.sleep(0.05)
    return [tenant.get(), decimal.getcontext().prec]


@tasks.register("look.around.thread", max_attempts=1)
def look_around_in_a_thread() -> list[object]:
    time.sleep(0.05)
    return [tenant.get(), decimal.getcontext().prec]


@tasks.register("look.around.large", max_attempts=1)
async def look_around_with_much(text: str) -> list[object]:
    """Its payload does not come with its claim."""
    assert text
    return [tenant.get(), decimal.getcontext().prec]


@tasks.register("cancel.all", max_attempts=1)
async def cancel_all() -> int:
    """As programs do that end, and their test suites."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return len(others)


@tasks.register("say")
async def say(words: str) -> None:
    """By `logging`, which nobody has configured."""
    logger = logging.getLogger("app")
    logger.info("%s in a handler", words)
    await asyncio.create_task(asyncio.to_thread(logger.info, "%s in a thread of its own", words))
    logger.debug("%s in a whisper", words)


@tasks.register("say.thread")
def say_in_a_thread(words: str) -> None:
    logging.getLogger("app").warning("%s in a def", words)


@tasks.register("leave.deaf.task")
async def leave_a_deaf_task() -> None:
    async def hear_nothing() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    kept.append(asyncio.create_task(hear_nothing()))
    await asyncio.sleep(0)


@tasks.register("end.in.child", max_attempts=1)
async def end_in_a_child(error: str, place: str) -> str:
    """Raises what ends a program: in a task that it waits for, in one that it does not wait for, in a callback."""
    kind = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[error]

    async def end() -> None:
        await asyncio.sleep(0)
        raise kind

    def end_now() -> None:
        raise kind

    match place:
        case "task":
            await asyncio.create_task(end())
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(end())
        case "task left":
            kept.append(asyncio.create_task(end()))
        case "callback":
            asyncio.get_running_loop().call_soon(end_now)
    await asyncio.sleep(0.01)
    return "went on"


@tasks.register("end.loop", max_attempts=1)
async def end_the_loop() -> None:
    asyncio.get_running_loop().stop()


@tasks.register("cancel")
async def cancel() -> None:
    raise Cancel("nothing to do")


@tasks.register("result")
async def result(kind: str) -> object:
    return {"nan": float("nan"), "object": object(), "nul": "a\x00b", "surrogate": "\ud800", "large": "x" * 2_000_000}[
        kind
    ]


@tasks.register("timeout.async", max_attempts=1, timeout=timedelta(milliseconds=100))
async def time_out() -> None:
    await asyncio.sleep(60)


@tasks.register("result.text")
async def result_of_text(text: str) -> object:
    """text: as JSON, in which anything can travel."""
    return json.loads(text)


@tasks.register("result.long")
async def long_result(characters: int) -> str:
    return "x" * characters


@tasks.register("measure")
async def measure(text: str) -> int:
    return len(text)


running_now: set[str] = set()
lock = threading.Lock()


@tasks.register("timeout.thread", max_attempts=2, timeout=timedelta(milliseconds=100), backoff=at_once)
def time_out_in_thread() -> None:
    """Outlasts its timeout; says so if two of its attempts overlap."""
    me = str(current_job().id)
    with lock:
        assert me not in running_now, "two attempts overlap"
        running_now.add(me)
    time.sleep(0.5)
    with lock:
        running_now.discard(me)


@tasks.register("die")
async def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@tasks.register("die.once")
async def die_once() -> str:
    if current_job().crashes == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


@tasks.register("die.quietly")
async def die_quietly() -> None:
    os._exit(0)


@tasks.register("spoil.line")
async def spoil_line(how: str) -> str:
    """Does to its pool's line what a handler can that has its file descriptors wrong; once."""
    if current_job().crashes:
        return "lived"
    line = int(sys.argv[1])
    match how:
        case "says it is done":
            os.write(line, b'["Done", {}]\n')
            os._exit(0)
        case "says nonsense":
            os.write(line, b"nonsense\n")
        case "says a list":
            os.write(line, b"[[]]\n")
        case "closes it":
            os.close(line)
    await asyncio.sleep(3600)
    return "outlived its pool"


@tasks.register("pid")
async def pid() -> int:
    return os.getpid()


@tasks.register("wall")
async def wall() -> float:
    """What the clock of its host says."""
    return time.time()


@tasks.register("end", max_attempts=3, backoff=at_once)
async def end(seconds: float, how: str) -> int:
    """Ends its first attempt as it is told to, and succeeds in later ones."""
    await asyncio.sleep(seconds)
    if current_job().attempt == 1:
        match how:
            case "fail":
                raise ValueError("as it was told to")
            case "snooze":
                raise Retry(after=timedelta(milliseconds=1))
            case "cancel":
                raise Cancel("as it was told to")
    return current_job().attempt


@tasks.register("batch.until.cancelled", batch=100)
async def batch_until_cancelled(jobs: list[Job[dict[str, bool]]]) -> list[str]:
    while not any(job.payload["ends"] and job.cancelled for job in jobs):  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.005)
    return ["cancelled" if job.cancelled else "not cancelled" for job in jobs]


@tasks.register("in.batches", batch=100, max_attempts=3, backoff=at_once)
async def in_batches(jobs: list[Job[dict[str, str]]]) -> list[object]:
    """Ends each job as its payload says, by default with the size of the batch."""
    await asyncio.sleep(float(jobs[0].payload.get("seconds", "0.02")))
    if any(job.payload.get("how") == "die" for job in jobs):
        os.kill(os.getpid(), signal.SIGKILL)
    ends = {"fail": ValueError("as it was told to"), "cancel": Cancel("as it was told to"), "snooze": Retry()}
    told = [ends.get(job.payload.get("how", "")) if job.attempt == 1 else None for job in jobs]
    return [end or len(jobs) for end in told]


async def _follow(job: Job[Any], steps: list[dict[str, Any]]) -> object:
    """Tells progress, and ends, as the steps say."""
    for step in steps:
        match step:
            case {"sleep": seconds}:
                await asyncio.sleep(seconds)
            case {"fail": message}:
                raise ValueError(message)
            case {"die": attempts} if job.attempt in attempts:
                os.kill(os.getpid(), signal.SIGKILL)
            case {"die": _}:
                pass
            case {"times": times}:
                for number in range(times):
                    job.progress(number + 1, times)
            case _:
                job.progress(**step)
    return job.checkpoint


@tasks.register("progress", max_attempts=2, backoff=at_once)
async def progress(steps: list[dict[str, Any]]) -> object:
    return await _follow(current_job(), steps)


@tasks.register("progress.thread", max_attempts=2, backoff=at_once)
def progress_in_a_thread(steps: list[dict[str, Any]]) -> object:
    return asyncio.run(_follow(current_job(), steps))


@tasks.register("progress.batch", batch=100, max_attempts=2, backoff=at_once)
async def progress_in_batches(jobs: list[Job[dict[str, Any]]]) -> list[object]:
    return [await _follow(job, job.payload["steps"]) for job in jobs]


def _bytes_of(job: Job[Any], file: dict[str, Any]) -> Iterator[bytes]:
    """`size` bytes of the letter, or of the attempt's digit, in writes of `piece`."""
    size, letter = file["size"], file.get("letter", str(job.attempt)).encode()
    piece = file.get("piece", 300_000)
    for start in range(0, size, piece):
        yield letter * min(piece, size - start)


def _happens(job: Job[Any], file: dict[str, Any]) -> None:
    if job.attempt in file.get("die", ()):
        os.kill(os.getpid(), signal.SIGKILL)
    if job.attempt in file.get("fail", ()):
        raise ValueError("no")


async def _leave(job: Job[Any], files: list[dict[str, Any]]) -> list[str]:
    """Leaves artifacts with the job. Returns what was raised in place of those that could not be left, if wanted."""
    refused = []
    for file in files:
        try:
            async with job.artifact(file["name"], file.get("type", "text/plain")) as writer:
                for data in _bytes_of(job, file):
                    await writer.write(data)
                job.progress(message="written")
                await asyncio.sleep(file.get("sleep", 0))
                _happens(job, file)
        except PushqError as error:
            if not file.get("refused"):
                raise
            refused.append(f"{type(error).__name__}: {error}")
    return refused


@tasks.register("artifacts", max_attempts=3, backoff=at_once)
async def artifacts(files: list[dict[str, Any]]) -> list[str]:
    return await _leave(current_job(), files)


@tasks.register("artifacts.at.once", max_attempts=3, backoff=at_once)
async def artifacts_at_once(files: list[dict[str, Any]]) -> list[str]:
    left = await asyncio.gather(*(_leave(current_job(), [file]) for file in files))
    return [refused for one in left for refused in one]


@tasks.register("artifacts.thread", max_attempts=3, backoff=at_once)
def artifacts_in_a_thread(files: list[dict[str, Any]]) -> list[str]:
    job = current_job()
    for file in files:
        with job.artifact(file["name"], file.get("type", "text/plain")) as writer:
            for data in _bytes_of(job, file):
                writer.write(data)
            time.sleep(file.get("sleep", 0))
            _happens(job, file)
    return []


@tasks.register("artifacts.loop", max_attempts=3, backoff=at_once)
def artifacts_on_a_loop_of_its_own(files: list[dict[str, Any]]) -> list[str]:
    return asyncio.run(_leave(current_job(), files))


@tasks.register("artifacts.batch", batch=100, max_attempts=3, backoff=at_once)
async def artifacts_in_batches(jobs: list[Job[dict[str, Any]]]) -> list[object]:
    return [await _leave(job, job.payload["files"]) for job in jobs]


@tasks.register("artifacts.zip")
def artifacts_zip(size: int) -> None:
    """By libraries that write to a file."""
    with current_job().artifact("all.zip", "application/zip") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", b"a" * size)
    with current_job().artifact("rows.csv", "text/csv") as file, io.TextIOWrapper(file, "utf-8") as text:
        text.write("a,b\n1,2\n")


@tasks.register("artifacts.left.open")
async def artifacts_left_open(name: str) -> None:
    writer = await current_job().artifact(name).__aenter__()
    await writer.write(b"x" * 2_000_000)


@tasks.register("artifacts.swallowed")
async def artifacts_swallowed(size: int) -> str:
    """A write that raises, and a handler that goes on."""
    told = ""
    try:
        async with current_job().artifact("a") as writer:
            for _ in range(2):
                try:
                    await writer.write(b"x" * size)
                except PushqError as error:
                    told = type(error).__name__
    except PushqError as error:
        return f"{told}, {error}"
    return "complete"


newer_tasks = Tasks()
"""Of a newer version of the program: it has a task more."""


@newer_tasks.register("newcomer")
async def newcomer() -> str:
    return "welcome"
