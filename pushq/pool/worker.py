"""Runs one job at a time: decodes its payload, calls its handler within its time, and decides what it came to."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, NoReturn, TypeVar

import anyio
from anyio import to_thread

from pushq.errors import PayloadError, ScopeLeftOpen, UnexpectedState
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
        self._scopes: dict[asyncio.Task[Any] | None, anyio.CancelScope] = {}
        self._stopped = False
        self._pid = os.getpid()

    def stop(self) -> None:
        """Cancels them, and those that would begin."""
        self._stopped = True
        for scope in self._scopes.values():
            scope.cancel()

    async def in_own_task(self, run: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        """What it returns; or, where handlers have spoiled its task, whether attempts go on.

        Whatever handlers leave in the task that they run in, a scope or a timer, is gone with it.
        """
        task = asyncio.ensure_future(self._until_stopped(run))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:  # the pool ends by a fault
            self.stop()
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
            raise
        return not self._stopped if task.cancelled() else task.result()

    async def _until_stopped(self, run: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        task, scope = asyncio.current_task(), anyio.CancelScope()
        fault: BaseException | None = None
        self._scopes[task] = scope
        try:
            with scope:
                if self._stopped:
                    scope.cancel()
                try:
                    return await run()
                except BaseException as error:
                    fault = error
                    raise
        except RuntimeError as error:  # another scope is open within ours
            if error is fault:
                raise
            return not self._stopped
        finally:
            del self._scopes[task]
        return False

    @property
    def scope_is_left_open(self) -> bool:
        """Whether a handler has left a cancel scope open in the current task, which may thus be cancelled at any time.

        anyio itself tells only whoever leaves a scope that another one is open within it; a scope a job costs too much.
        """
        return bool(getattr(self._scopes[asyncio.current_task()], "_child_scopes", ()))

    async def undisturbed(self, wait: Callable[[], Awaitable[T]]) -> T:
        """What it returns, though a handler of before may cancel its worker's task now, by a timer that it left."""
        while True:
            try:
                return await wait()
            except asyncio.CancelledError:
                if self._stopped or _is_cancelled_from_above():
                    raise
                await forget_cancellations()

    async def make_apart(self, job: Job, task: Task[..., Any]) -> Outcome:
        """One attempt in a task of its own."""
        outcome = released(job)

        async def make() -> bool:
            nonlocal outcome
            outcome = await self.make(job, task)
            return False

        await self.in_own_task(make)
        return outcome

    async def make(self, job: Job, task: Task[..., Any]) -> Outcome:
        """One attempt at a job, and what it came to."""
        began = monotonic()
        ending = await self._attempt(job, task)
        outcome = decide(job, ending, max_attempts=task.max_attempts, backoff=task.backoff)
        outcome.began, outcome.ended = began, monotonic()
        return outcome

    async def _attempt(self, job: Job, task: Task[..., Any]) -> Ending:
        try:
            payload = job.payload
            if payload is None:
                payload = await self.undisturbed(lambda: self._load_payload(job))
            if payload is None:
                return Stopped()  # it is no longer ours
            arguments = task.arguments(payload)
            del payload  # it may be large, and the handler may run for long
            set_current_job(job)  # a large payload is not put there: the loop's timers keep what they are set beside
            limit = job.timeout or task.timeout
            return await (self._call_within(limit, task, arguments) if limit else self._call(task, arguments))
        except PayloadError as error:
            return Raised(error)
        except UnexpectedState as error:
            return Raised(PayloadError(f"The payload of task {task.name!r} cannot be read: {str(error).rstrip('.')}."))
        except asyncio.CancelledError as error:
            if self._stopped:
                return Stopped()
            # The handler's own doing, or that of one before it.
            return Raised(ScopeLeftOpen() if self.scope_is_left_open else error)

    async def _call_within(self, limit: timedelta, task: Task[..., Any], arguments: Mapping[str, object]) -> Ending:
        ending: Ending | None = None
        deadline = anyio.current_time() + limit.total_seconds()
        scope = anyio.CancelScope(deadline=deadline)
        try:
            with scope:
                ending = await self._call(task, arguments)
        except RuntimeError:  # a call raises none: the handler has left a scope open within ours
            scope.deadline = math.inf
        # A loop that was blocked has not had the time to cancel: the clock decides.
        if anyio.current_time() >= deadline:
            return TimedOut(limit)
        if ending is None:
            return Stopped() if self._stopped else Raised(ScopeLeftOpen())
        return ending

    async def _call(self, task: Task[..., Any], arguments: Mapping[str, object]) -> Ending:
        if not task.is_async:
            return await self._call_in_thread(task, arguments)
        try:
            try:
                return Returned(await task.function(**arguments))
            finally:
                self._end_if_forked()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: only our own parent stops us
            return Raised(error)

    async def _call_in_thread(self, task: Task[..., Any], arguments: Mapping[str, object]) -> Ending:
        """Lasts until it returns, whoever cancels the task that waits; a thread may ask anyio whether that was done."""
        ending: Ending | None = None

        def call() -> None:
            nonlocal ending
            try:
                try:
                    ending = Returned(task.function(**arguments))
                finally:
                    self._end_if_forked()
            except BaseException as error:  # noqa: BLE001 - as above
                ending = Raised(error)

        try:
            async with anyio.create_task_group() as waiting:  # which is not left before the thread is
                waiting.start_soon(partial(to_thread.run_sync, call, limiter=self._threads))
        except asyncio.CancelledError:
            if ending is None:  # it had not begun
                raise
        except BaseExceptionGroup as group:  # there is no thread to be had
            return Raised(group.exceptions[0])
        assert ending
        if self._stopped and isinstance(ending, Raised) and issubclass(type(ending.error), asyncio.CancelledError):
            return Stopped()  # it has asked, and heeded the answer
        return ending

    def _end_if_forked(self) -> None:
        """A child that a handler has forked is a copy of us, connections and all: it ends where the handler does."""
        if os.getpid() != self._pid:
            _end_as_the_interpreter_would(sys.exc_info()[1])


def _is_cancelled_from_above() -> bool:
    """Whether the scopes around the current task were cancelled, rather than the task itself by somebody in it."""
    return anyio.current_effective_deadline() == -math.inf


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

    async def run(self) -> None:
        """Until there are no more jobs, or until attempts are stopped."""
        while await self._attempts.in_own_task(self._run_jobs):
            pass

    async def _run_jobs(self) -> bool:
        """Whether to go on in another task."""
        while job := await self._attempts.undisturbed(self._intake.take):
            outcome: Outcome | None = None
            try:
                outcome = await self._attempts.make(job, self._tasks.find(job.task))
            finally:
                self._outbox.put(released(job) if outcome is None else outcome)
                self._intake.done()
            if self._attempts.scope_is_left_open:
                return True
            await forget_cancellations()
            if self._outbox.is_full:
                await self._attempts.undisturbed(self._outbox.wait_room)
        return False
