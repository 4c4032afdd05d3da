"""Runs one job at a time: decodes its payload, calls its handler within its time, and decides what it came to."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from time import monotonic
from typing import Any, NoReturn, TypeVar

import anyio
from anyio import to_thread

from pushq.errors import PayloadError, ScopeLeftOpen, ValueRefused
from pushq.job import Job
from pushq.outcome import Ending, Kind, Outcome, Raised, Returned, Stopped, TimedOut, decide, released
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
        """For whoever makes attempts: is left, quietly, when they are stopped.

        Raises ScopeLeftOpen if a handler has left one open: at the end, or when that is cancelled.
        """
        fault: BaseException | None = None
        scope = anyio.CancelScope()
        try:
            with scope:
                if self._stopped:
                    scope.cancel()
                self._scopes.add(scope)
                try:
                    yield
                except BaseException as error:
                    fault = error
                    raise
                finally:
                    self._scopes.discard(scope)
        except RuntimeError as error:  # ours is not the innermost
            if error is fault:
                raise
            if not self._stopped:
                raise ScopeLeftOpen from None

    async def make(self, job: Job, task: Task[..., Any]) -> Outcome:
        """One attempt at a job, inside of `until_stopped`, and what it came to. Raises only that it was cancelled."""
        began = monotonic()
        outcome = _decide(job, task, await self._attempt(job, task))
        outcome.began, outcome.ended = began, monotonic()
        return outcome

    async def make_apart(self, job: Job, task: Task[..., Any]) -> Outcome:
        """One attempt in a task of its own."""
        outcome = released(job)

        async def make() -> None:
            nonlocal outcome
            try:
                with self.until_stopped():
                    outcome = await self.make(job, task)
                    await forget_cancellations()
            except ScopeLeftOpen as fault:
                if outcome.kind == Kind.RELEASED:
                    outcome = _decide(job, task, Raised(fault))

        await self.in_own_task(make())
        return outcome

    async def in_own_task(self, run: Coroutine[Any, Any, T]) -> T:
        """What it returns. What handlers leave in the task that they run in, a scope or a timer, is gone with it."""
        task = asyncio.ensure_future(run)
        try:
            await asyncio.wait([task])
        except anyio.get_cancelled_exc_class():  # the pool ends by a fault
            self.stop()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
            raise
        return task.result()

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
        """Calls the handler."""
        if not task.is_async:
            return await self._call_in_thread(task, arguments)
        try:
            try:
                return Returned(await task.function(**arguments))
            finally:
                self._end_if_forked()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: only our own parent stops us
            return Raised(error)

    async def _call_in_thread(self, task: Task[..., Any], arguments: Mapping[str, object]) -> Ending:
        """A `def` cannot be cancelled: the attempt lasts until it returns, whoever cancels the task that waits."""

        def call() -> Ending:
            try:
                try:
                    return Returned(task.function(**arguments))
                finally:
                    self._end_if_forked()
            except BaseException as error:  # noqa: BLE001 - as above
                return Raised(error)

        ending = asyncio.ensure_future(to_thread.run_sync(call, limiter=self._threads))
        with anyio.CancelScope(shield=True):
            await undisturbed(lambda: asyncio.wait([ending]))
        return ending.result()

    def _end_if_forked(self) -> None:
        """A child that a handler has forked is a copy of us, connections and all: it ends where the handler does."""
        if os.getpid() != self._pid:
            _end_as_the_interpreter_would(sys.exc_info()[1])

    async def _call_within(self, limit: timedelta, task: Task[..., Any], arguments: Mapping[str, object]) -> Ending:
        ending: Ending | None = None
        deadline = anyio.current_time() + limit.total_seconds()
        scope = anyio.CancelScope(deadline=deadline)
        try:
            with scope:
                ending = await self._call(task, arguments)
        except RuntimeError:  # a call raises none: the handler has left a scope open within ours
            scope.deadline = math.inf
            ending = ending or Raised(ScopeLeftOpen())
        # A loop that was blocked has not had the time to cancel: the clock decides.
        return TimedOut(limit) if ending is None or anyio.current_time() >= deadline else ending


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


class Worker:
    """Runs one job after the other, in a task; in a new one when a handler has left a cancel scope open there."""

    def __init__(self, tasks: Tasks, attempts: Attempts, intake: Intake, outbox: Outbox) -> None:
        self._tasks = tasks
        self._attempts = attempts
        self._intake = intake
        self._outbox = outbox
        self._job: Job | None = None

    async def run(self) -> None:
        """Until there are no more jobs, or until attempts are stopped."""
        while await self._attempts.in_own_task(self._run_in_task()):
            pass

    async def _run_in_task(self) -> bool:
        """Whether to go on in another one."""
        try:
            with self._attempts.until_stopped():
                return await self._run_jobs()
        except ScopeLeftOpen as fault:
            if self._job:
                self._end(_decide(self._job, self._tasks.find(self._job.task), Raised(fault)))
            return True
        finally:
            if self._job:
                self._end(released(self._job))
        return False

    async def _run_jobs(self) -> bool:
        """Whether there may be more."""
        while job := await undisturbed(self._intake.take):
            self._job = job
            self._end(await self._attempts.make(job, self._tasks.find(job.task)))
            await forget_cancellations()
            if anyio.current_effective_deadline() < math.inf:
                return True  # a scope was left open that will be cancelled
            if self._outbox.is_full:
                await undisturbed(self._outbox.wait_room)
        return False

    def _end(self, outcome: Outcome) -> None:
        self._outbox.put(outcome)
        self._intake.done()
        self._job = None


def _decide(job: Job, task: Task[..., Any], ending: Ending) -> Outcome:
    return decide(job, ending, max_attempts=task.max_attempts, backoff=task.backoff)
