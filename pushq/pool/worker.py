"""Runs one job at a time: decodes its payload, calls its handler within its time, and decides what it came to."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from time import monotonic
from typing import Any, NoReturn, TypeVar

import anyio
from anyio import to_thread

from pushq.errors import PayloadError, ValueRefused
from pushq.job import Job
from pushq.outcome import Ending, Outcome, Raised, Returned, Stopped, TimedOut, decide, released
from pushq.pool.intake import Intake
from pushq.pool.outbox import Outbox
from pushq.task import Task, Tasks, set_current_job

T = TypeVar("T")

LoadPayload = Callable[[Job], Awaitable[str | None]]
"""Fetches a payload that was too large to come with its claim; None: the job is no longer ours."""


class Attempts:
    """The attempts that are under way in a pool, so that all can be stopped at its deadline."""

    def __init__(self, load_payload: LoadPayload) -> None:
        self._load_payload = load_payload
        self._threads = anyio.CapacityLimiter(math.inf)  # a worker has one call at a time
        self._scopes: set[anyio.CancelScope] = set()
        self._stopped = False
        self._pid = os.getpid()

    def stop(self) -> None:
        """Cancels them, and those that would begin."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """For whoever makes attempts: is left, quietly, when they are stopped."""
        with anyio.CancelScope() as scope:
            if self._stopped:
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    async def make(self, job: Job, task: Task[..., Any]) -> Outcome:
        """One attempt at a job, inside of `until_stopped`, and what it came to. Raises only that it was cancelled."""
        began = monotonic()
        ending = await self._attempt(job, task)
        outcome = decide(job, ending, max_attempts=task.max_attempts, backoff=task.backoff)
        outcome.began, outcome.ended = began, monotonic()
        return outcome

    async def _attempt(self, job: Job, task: Task[..., Any]) -> Ending:
        try:
            payload = job.payload
            if payload is None:
                payload = await undisturbed(lambda: self._load_payload(job))
            if payload is None:
                return Stopped()  # it is no longer ours
            arguments = task.arguments(payload)
        except PayloadError as error:
            return Raised(error)
        except ValueRefused as error:
            return Raised(PayloadError(f"The payload of task {task.name!r} cannot be read: {error}."))
        del payload  # it may be large, and the handler may run for long
        set_current_job(job)  # a large payload is not put there: the loop's timers keep what they are set beside
        limit = job.timeout or task.timeout
        try:
            return await (self._call_within(limit, task, arguments) if limit else self._call(task, arguments))
        except anyio.get_cancelled_exc_class() as error:
            if self._stopped or _is_cancelled_from_above():
                raise
            return Raised(error)  # the handler's own doing, or that of one before it

    async def _call(self, task: Task[..., Any], arguments: Mapping[str, object]) -> Ending:
        """Calls the handler. A `def` in a thread cannot be cancelled: the attempt lasts until it returns."""
        try:
            if not task.is_async:
                return Returned(await to_thread.run_sync(self._call_in_thread, task, arguments, limiter=self._threads))
            try:
                return Returned(await task.function(**arguments))
            finally:
                self._end_if_forked()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: only our own parent stops us
            return Raised(error)

    def _call_in_thread(self, task: Task[..., Any], arguments: Mapping[str, object]) -> object:
        try:
            return task.function(**arguments)
        finally:
            self._end_if_forked()

    def _end_if_forked(self) -> None:
        """A child that a handler has forked is a copy of us, connections and all: it ends where the handler does."""
        if os.getpid() != self._pid:
            _end_as_the_interpreter_would(sys.exc_info()[1])

    async def _call_within(self, limit: timedelta, task: Task[..., Any], arguments: Mapping[str, object]) -> Ending:
        ending: Ending = TimedOut(limit)
        with anyio.move_on_after(limit.total_seconds()) as scope:
            ending = await self._call(task, arguments)
        # A loop that was blocked has not had the time to cancel: the clock decides.
        return TimedOut(limit) if anyio.current_time() >= scope.deadline else ending


def _is_cancelled_from_above() -> bool:
    """Whether the scopes around the current task were cancelled, rather than the task itself by somebody in it."""
    return anyio.current_effective_deadline() == -math.inf


async def undisturbed(wait: Callable[[], Awaitable[T]]) -> T:
    """What it returns, though a handler of before may cancel its worker's task now, by a timer that it left."""
    while True:
        try:
            return await wait()
        except anyio.get_cancelled_exc_class():
            if _is_cancelled_from_above():
                raise
            await forget_cancellations()


async def forget_cancellations() -> None:
    """Those that a handler has asked for, of the task that it ran in, which is not its own."""
    task = asyncio.current_task()
    if task and task.cancelling() and not _is_cancelled_from_above():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # one that is asked for and not yet raised is raised here
        while task.cancelling():
            task.uncancel()


def _end_as_the_interpreter_would(error: BaseException | None) -> NoReturn:
    code: object = 0
    if isinstance(error, SystemExit):
        code = error.code or 0
    elif error:
        code = "".join(traceback.format_exception(error))
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


async def work(tasks: Tasks, attempts: Attempts, intake: Intake, outbox: Outbox) -> None:
    """Runs jobs until there are no more, or until attempts are stopped."""
    with attempts.until_stopped():
        while job := await undisturbed(intake.take):
            outcome: Outcome | None = None
            try:
                outcome = await attempts.make(job, tasks.find(job.task))
            finally:
                outbox.put(released(job) if outcome is None else outcome)
                intake.done()
            await forget_cancellations()
            if outbox.is_full:
                await undisturbed(outbox.wait_room)
