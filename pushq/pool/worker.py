"""Runs one job at a time: decodes its payload, calls its handler within its time, and decides what it came to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pushq.errors import PayloadError
from pushq.events import WorkersBusy, publish
from pushq.job import Job
from pushq.outcome import Ending, Outcome, Raised, Returned, Stopped, TimedOut, decide
from pushq.pool.slots import Slots
from pushq.task import Task, Tasks, running


class Attempts:
    """The attempts that are under way in a pool, so that all can be stopped at its deadline."""

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(math.inf)  # a worker has one call at a time
        self._scopes: set[anyio.CancelScope] = set()
        self._stopped = False

    def stop(self) -> None:
        """Cancels them, and those that would begin."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def _stoppable(self) -> Any:
        with anyio.CancelScope() as scope:
            if self._stopped:
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    async def make(self, job: Job, task: Task[..., Any]) -> Ending:
        """Calls the handler. A `def` in a thread cannot be cancelled: the attempt lasts until it returns."""
        ending: Ending = Stopped()
        with self._stoppable() as scope:
            try:
                ending = await self._call(job, task, task.arguments(job.payload))
            except PayloadError as error:
                ending = Raised(error)
            except anyio.get_cancelled_exc_class() as error:
                if scope.cancel_called:
                    raise
                ending = Raised(error)  # the handler's own doing
        return ending

    async def _call(self, job: Job, task: Task[..., Any], arguments: Mapping[str, object]) -> Ending:
        limit = job.timeout or task.timeout
        call = partial(task.function, **arguments)
        ending: Ending | None = None
        with anyio.move_on_after(limit.total_seconds() if limit else None) as scope, running(job):
            try:
                value = await (call() if task.is_async else to_thread.run_sync(call, limiter=self._threads))
                ending = Returned(value)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - SystemExit too: only our own parent stops us
                ending = Raised(error)
        # A loop that was blocked has not had the time to cancel: the clock decides.
        if limit and (scope.cancelled_caught or ending is None or anyio.current_time() >= scope.deadline):
            return TimedOut(limit)
        return ending or TimedOut(limit or timedelta(0))


async def work(
    tasks: Tasks,
    attempts: Attempts,
    slots: Slots,
    jobs: MemoryObjectReceiveStream[Job],
    outcomes: MemoryObjectSendStream[Outcome],
) -> None:
    """Runs jobs until their stream ends."""
    with outcomes, jobs:
        async for job in jobs:
            publish(WorkersBusy(slots.busy, slots.workers))
            await outcomes.send(await attempt(job, tasks.find(job.task), attempts))
            slots.give_back()
            publish(WorkersBusy(slots.busy, slots.workers))


async def attempt(job: Job, task: Task[..., Any], attempts: Attempts) -> Outcome:
    """One attempt at a job, and what it came to."""
    began = anyio.current_time()
    ending = await attempts.make(job, task)
    outcome = decide(job, ending, max_attempts=task.max_attempts, backoff=task.backoff)
    return replace(outcome, seconds=anyio.current_time() - began)
