"""One attempt at a job: decodes its payload, calls its handler within its time, and decides what it came to.

That of an `async def` is a task of its own, that of a `def` a call in a thread; each is in a context of its own. So
whatever a handler leaves behind, a timer that cancels its task, a cancel scope, a context variable, meets no other job.
"""

from __future__ import annotations

import asyncio
import decimal
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from functools import partial
from math import inf
from time import monotonic
from typing import Any
from uuid import UUID

import anyio
from anyio import to_thread
from anyio._backends._asyncio import _task_states
from anyio.lowlevel import checkpoint

from pushq.current import set_current_job
from pushq.errors import PayloadError, UnexpectedState
from pushq.events import NoThread, publish
from pushq.job import Job
from pushq.outcome import Ending, Kind, Outcome, Raised, Returned, Stopped, TimedOut, decide, released
from pushq.pool.forks import end_child, forked
from pushq.pool.loop import PoolLoop
from pushq.task import Task

LoadPayload = Callable[[Job], Awaitable[str | None]]
"""Fetches a payload that was too large to come with its claim; None: the job is no longer ours."""

_CANCELLED = (asyncio.CancelledError, futures.CancelledError)
"""The second where a `def` waits in its thread for what happens on the loop."""
REST = 1.0
"""Seconds."""


class Attempts:
    """Makes the attempts of a pool. All can be stopped, at its deadline.

    Each takes its payload out of a list, since it may be large, and puts its outcome into another, since what a task
    returns is lost when it has been cancelled.
    """

    def __init__(self, load_payload: LoadPayload) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PoolLoop)
        self._loop = loop
        self._load_payload = load_payload
        self._context = copy_context()  # as the tasks' module has left it
        self._decimal = next((it for it in self._context.values() if isinstance(it, decimal.Context)), None)
        self._threads = anyio.CapacityLimiter(inf)  # a worker has one call at a time
        self._waiting = dict[asyncio.Task[None], tuple[Job, float]]()  # attempts on the loop, and when they began
        self._called = dict[tuple[UUID, UUID], tuple[Job, float]]()  # the same in threads, by id and token
        self._scopes = set[anyio.CancelScope]()  # around those in threads, and around payloads that are fetched
        self._stopped = False

    def stop(self) -> None:
        """Cancels them, and those that would begin."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()
        self._cancel_waiting()

    def under_way(self) -> list[tuple[Job, float, asyncio.Task[None] | None]]:
        """Those that wait or run in a thread, when they began, and the tasks of those on the loop. For any thread."""
        on_loop = [(job, began, task) for task, (job, began) in list(self._waiting.items())]
        return on_loop + [(job, began, None) for job, began in list(self._called.values())]

    def _cancel_waiting(self) -> None:
        """Again and again until they have ended, as a scope of anyio's would. One for each would cost too much."""
        for attempt in self._waiting:
            if not _is_shielded(attempt):
                attempt.cancel()
        if self._waiting:
            self._loop.call_later(0.01, self._cancel_waiting)

    async def make(self, job: Job, task: Task[..., Any]) -> Outcome:
        """Makes an attempt at a job; what it came to. One that cannot begin any more is released."""
        began, limit = monotonic(), job.timeout or task.timeout
        made: list[Outcome] = []
        given = [job.payload] if job.payload else await self._load(job, task, made)
        if not given or self._stopped:
            return made[0] if made else released(job)
        if not task.is_async:
            self._called[job.id, job.token] = job, began
            try:
                await self._call_in_thread(job, task, given, made, limit)
            finally:
                del self._called[job.id, job.token]
        else:
            run = self._run_within(limit, job, task, given, made) if limit else self._run(job, task, given, made)
            attempt = self._loop.begin(run, self._context.copy(), task.name)
            if not attempt.done():
                await self._wait_ended(attempt, job, began, made)
            if not made:
                attempt.result()  # raises what is a fault of ours
        (outcome,) = made
        outcome.began = began
        return outcome

    async def rest(self) -> None:
        """For a worker that has found no thread: it is not free meanwhile, so that less is claimed."""
        with self._stoppable():
            await anyio.sleep(0 if self._stopped else REST)

    async def _load(self, job: Job, task: Task[..., Any], made: list[Outcome]) -> list[str]:
        with self._stoppable():
            try:
                payload = await self._load_payload(job)
                return [payload] if payload else []
            except UnexpectedState as error:
                reason = str(error).rstrip(".")
                refused = PayloadError(f"The payload of task {task.name!r} cannot be read: {reason}.")
                made.append(_decide(job, task, Raised(refused)))
        return []

    # On the loop ----------------------------------------------------------------------------------------------

    async def _run(
        self, job: Job, task: Task[..., Any], given: list[str], made: list[Outcome], until: float = inf
    ) -> None:
        try:
            set_current_job(job)
            if self._decimal:
                decimal.setcontext(self._decimal.copy())
            value = await task.function(**task.arguments(given.pop()))
        except BaseException as error:  # noqa: BLE001 - SystemExit too: only our own parent stops us
            made.append(self._raised(error, job, task, until))
        else:
            made.append(_returned(value, job, task, until))

    async def _run_within(
        self, limit: timedelta, job: Job, task: Task[..., Any], given: list[str], made: list[Outcome]
    ) -> None:
        until = monotonic() + limit.total_seconds()
        scope = anyio.CancelScope(deadline=until)
        try:
            with scope:
                await self._run(job, task, given, made, until)
        except RuntimeError:  # the handler has left a scope open in ours
            scope.deadline = inf

    async def _wait_ended(self, attempt: asyncio.Task[None], job: Job, began: float, made: list[Outcome]) -> None:
        self._waiting[attempt] = job, began
        while not attempt.done():
            try:
                await attempt  # which is cancelled if we are
            except asyncio.CancelledError:
                continue
        del self._waiting[attempt]
        if made and made[0].error_type == "CancelledError":
            await checkpoint()  # the pool may be ending by a fault: then it was not the handler

    # In a thread ----------------------------------------------------------------------------------------------

    async def _call_in_thread(
        self, job: Job, task: Task[..., Any], given: list[str], made: list[Outcome], limit: timedelta | None
    ) -> None:
        """Lasts until the call returns. It may ask anyio whether it is over."""
        until = monotonic() + limit.total_seconds() if limit else inf
        with self._stoppable(until):
            try:
                call = partial(self._call, job, task, given, made, until)
                await to_thread.run_sync(call, limiter=self._threads)
            except (RuntimeError, MemoryError) as error:  # the handler was not called
                publish(NoThread(str(error) or type(error).__name__))
                made.append(replace(released(job), error_type="NoThread"))
        if not made:  # it was cancelled before it had begun
            made.append(_decide(job, task, Stopped(), until))

    def _call(self, job: Job, task: Task[..., Any], given: list[str], made: list[Outcome], until: float) -> None:
        try:
            set_current_job(job)
            if self._decimal:
                decimal.setcontext(self._decimal.copy())
            value = task.function(**task.arguments(given.pop()))
        except BaseException as error:  # noqa: BLE001 - as above
            made.append(self._raised(error, job, task, until))
        else:
            made.append(_returned(value, job, task, until))

    @contextmanager
    def _stoppable(self, until: float = inf) -> Iterator[None]:
        with anyio.CancelScope(deadline=until) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def _raised(self, error: BaseException, job: Job, task: Task[..., Any], until: float) -> Outcome:
        if forked:
            end_child(error)
        if self._stopped and issubclass(type(error), _CANCELLED):
            return _decide(job, task, Stopped(), until)
        return _decide(job, task, Raised(error), inf if issubclass(type(error), PayloadError) else until)


def _returned(value: object, job: Job, task: Task[..., Any], until: float) -> Outcome:
    if forked:
        end_child(None)
    if value is None and until is inf:  # what most come to
        outcome = Outcome(job, Kind.SUCCEEDED)
        outcome.ended = monotonic()
        return outcome
    return _decide(job, task, Returned(value), until)


def _decide(job: Job, task: Task[..., Any], ending: Ending, until: float = inf) -> Outcome:
    """By the clock where there is a limit: a loop that was blocked has not had the time to cancel."""
    ended, limit = monotonic(), job.timeout or task.timeout
    if limit and ended >= until:
        ending = TimedOut(limit, ending.error if isinstance(ending, Raised) else None)
    outcome = decide(job, ending, max_attempts=task.max_attempts, backoff=task.backoff)
    outcome.ended = ended
    return outcome


def _is_shielded(attempt: asyncio.Task[None]) -> bool:
    """Whether it waits in a scope that cancellation does not enter, which anyio has no public function for."""
    state = _task_states.get(attempt)
    scope = state.cancel_scope if state else None
    while scope and not scope.shield:
        scope = scope._parent_scope  # noqa: SLF001
    return scope is not None
