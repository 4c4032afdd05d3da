"""One attempt at a batch: one call of a handler for many jobs, and an outcome for each job.

What concerns one job alone ends that job alone: a payload that does not fit, a middleware that raises, an item of the
handler's list. What the handler raises, a timeout and a stop end all jobs that the handler was called for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any
from uuid import UUID

import anyio

from pushq.batch import BatchForm
from pushq.errors import PayloadError
from pushq.job import Job
from pushq.middleware import Middleware
from pushq.outcome import Ending, Outcome, Raised, Stopped, decide, endings_of_batch, unbegun
from pushq.pool.attempt import CANCELLED, Attempt
from pushq.pool.forks import end_child, forked
from pushq.pool.leftovers import Contexts
from pushq.task import Task


class BatchAttempt(Attempt):
    """One call of a handler with a batch.

    job: the first of the jobs. limit: the smallest of the jobs' limits. outcomes: by a job's id. outcome: of one of the
    jobs; None until all have an outcome.
    """

    __slots__ = ("_called", "_form", "_raised", "jobs", "outcomes")

    def __init__(
        self, jobs: Sequence[Job], task: Task[..., Any], form: BatchForm, contexts: Contexts, stop: anyio.Event
    ) -> None:
        super().__init__(jobs[0], task, contexts, stop)
        self.limit = min((limit for job in jobs if (limit := job.timeout or task.timeout)), default=None)
        self.jobs = jobs
        self.outcomes = dict[UUID, Outcome]()
        self._form = form
        self._called = list[Job]()  # decoded, as the handler got the jobs
        self._raised = dict[UUID, BaseException]()  # by a job's id

    @property
    def size(self) -> int:
        return len(self.jobs)

    async def run(self) -> None:
        """Calls an `async def`, in a task and a context of its own."""
        try:
            self._contexts.enter(None)
            self._decode()
            value = await self.task.function(**self._form.call_with(self._called)) if self._called else None
        except BaseException as error:  # noqa: BLE001 - as in Attempt
            self._note_raised(error)
        else:
            self._note_returned(value)

    def call(self) -> None:
        """Calls a `def`, in a thread and a context of its own."""
        try:
            self._contexts.enter(None)
            self._decode()
            value = self.task.function(**self._form.call_with(self._called)) if self._called else None
        except BaseException as error:  # noqa: BLE001 - as in Attempt
            self._note_raised(error)
        else:
            self._note_returned(value)

    async def run_inside(self, middleware: Middleware, handle: Callable[[], Awaitable[None]]) -> None:
        """Enters the middleware for each job, one inside of the other, and then has the handler called by `handle`.

        A job's own error, and what is everybody's, is raised in the job's middleware.
        """
        entered = list[tuple[Job, AsyncExitStack]]()
        self._contexts.enter(None)
        for job in self.jobs:
            around = AsyncExitStack()
            try:
                await around.enter_async_context(middleware(job))
            except BaseException as error:  # noqa: BLE001 - as in Attempt
                self.end_one(job, self._ending_by(job, error))
            else:
                entered.append((job, around))
        if entered:
            await handle()
        for job, around in reversed(entered):
            await self._leave(job, around)
        self._raised.clear()  # else an error would hold its frames, and the frames this attempt

    async def _leave(self, job: Job, around: AsyncExitStack) -> None:
        raised = self._raised.get(job.id)
        try:
            await around.__aexit__(type(raised) if raised else None, raised, raised.__traceback__ if raised else None)
        except BaseException as error:  # noqa: BLE001 - as in Attempt
            if error is not raised:
                self.end_one(job, self._ending_by(job, error))

    def end(self, ending: Ending) -> None:
        """Ends all jobs that have not ended alone."""
        ending = self._in_time(ending, monotonic())
        for job in self._not_ended():
            self.end_one(job, ending)

    def end_one(self, job: Job, ending: Ending) -> None:
        """Ends a job alone, or again: what a middleware raises takes the place of what the handler has raised."""
        outcome = decide(job, ending, max_attempts=self.task.max_attempts, backoff=self.task.backoff)
        outcome.ended = monotonic()
        self.outcomes[job.id] = outcome
        if len(self.outcomes) == len(self.jobs):
            self.outcome = outcome

    def end_unbegun(self) -> None:
        for job in self._not_ended():
            self.outcomes[job.id] = self.outcome = unbegun(job)

    def _not_ended(self) -> list[Job]:
        return [job for job in self.jobs if job.id not in self.outcomes]

    def _decode(self) -> None:
        for job in self._not_ended():
            try:
                self._called.append(self._form.decoded(job))
            except PayloadError as error:
                self.end_one(job, self._ending_by(job, error))

    def _note_raised(self, error: BaseException) -> None:
        self._raised |= {job.id: error for job in self._not_ended()}
        super()._note_raised(error)

    def _note_returned(self, value: object) -> None:
        if forked:
            end_child(None)
        ended = monotonic()
        for job, ending in zip(self._called, endings_of_batch(value, len(self._called)), strict=True):
            own = self._ending_by(job, ending.error) if isinstance(ending, Raised) else ending
            self.end_one(job, self._in_time(own, ended))

    def _ending_by(self, job: Job, error: BaseException) -> Ending:
        self._raised[job.id] = error
        return Stopped() if self._stop.is_set() and issubclass(type(error), CANCELLED) else Raised(error)
