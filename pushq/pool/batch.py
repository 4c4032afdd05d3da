"""One attempt at a batch: one call of a handler for many jobs, and an outcome for each job.

What concerns one job alone ends that job alone: a payload that does not fit, a middleware that raises, an item of the
handler's list. What the handler raises, and a stop of the pool, end all jobs that the handler was called for. The
shortest of their timeouts stops the handler, and charges the jobs whose own timeout has passed: a row that somebody
inserts with a timeout of a millisecond must not fail the jobs of others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from math import inf
from time import monotonic
from typing import Any
from uuid import UUID

import anyio

from pushq.batch import BatchForm
from pushq.job import Job
from pushq.middleware import Middleware
from pushq.outcome import Ending, Outcome, Raised, Stopped, TimedOut, decide, endings_of_batch, unbegun
from pushq.pool.attempt import CANCELLED, Attempt
from pushq.pool.forks import end_child, forked
from pushq.pool.leftovers import Contexts, time_limit
from pushq.spans import Span, SpanMaker
from pushq.task import Task
from pushq.trace import traceback_of


class BatchAttempt(Attempt):
    """One call of a handler with a batch.

    job: the first of the jobs. limit: the shortest of the limits, once the jobs are decoded. outcomes: by a job's id.
    outcome: of one of the jobs; None until all have an outcome.
    """

    __slots__ = ("_called", "_form", "_jobs", "_raised", "_started", "outcomes")

    def __init__(
        self, jobs: Sequence[Job], task: Task[..., Any], form: BatchForm, contexts: Contexts, stop: anyio.Event
    ) -> None:
        super().__init__(jobs[0], task, contexts, stop)
        self.limit = None
        self._jobs = jobs
        self.outcomes = dict[UUID, Outcome]()
        self._form = form
        self._called = list[Job]()  # decoded, as the handler gets the jobs
        self._started = inf
        self._raised: dict[UUID, BaseException] | None = None  # by a job's id, for the middleware if there is any

    @property
    def jobs(self) -> Sequence[Job]:
        return self._jobs

    @property
    def all_outcomes(self) -> Sequence[Outcome]:
        return (*self.outcomes.values(),)

    def begin_span(self, maker: SpanMaker) -> Span:
        return maker.of_batch(self._jobs)

    # The call -------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> Sequence[Callable[[], None]]:
        return self.decode, self.call

    def decode(self) -> None:
        """Makes the handler's list. What a user's validator raises, even SystemExit, hurts only its own job."""
        self._contexts.enter(None)
        for job in self._not_ended():
            try:
                self._called.append(self._form.decoded(job))
            except BaseException as error:  # noqa: BLE001 - as in Attempt
                if forked:
                    end_child(error)
                self.end_one(job, self._ending_by(job, error))
        self.limit = min((limit for job in self._called if (limit := self._own_limit(job))), default=None)

    def start_clock(self) -> None:
        super().start_clock()
        self._started = monotonic()

    async def run(self) -> None:
        """Decodes, and calls an `async def` within the limit, in a task and a context of its own."""
        self.decode()
        self.start_clock()
        with time_limit(self.until):
            try:
                value = await self.task.function(**self._form.call_with(self._called)) if self._called else None
            except BaseException as error:  # noqa: BLE001 - as in Attempt
                self._note_raised(error)
            else:
                self._note_returned(value)

    def call(self) -> None:
        """Calls a `def`, in a thread and a context of its own."""
        try:
            self._contexts.enter(None)
            value = self.task.function(**self._form.call_with(self._called)) if self._called else None
        except BaseException as error:  # noqa: BLE001 - as in Attempt
            self._note_raised(error)
        else:
            self._note_returned(value)

    # The middleware -------------------------------------------------------------------------------------------

    async def run_inside(self, middleware: Middleware, handle: Callable[[], Awaitable[None]]) -> None:
        """Enters the middleware for each job, one inside of the other, and then has the handler called by `handle`.

        A job's own error, and what is everybody's, is raised in the job's middleware.
        """
        entered = list[tuple[Job, AbstractAsyncContextManager[object]]]()
        self._raised = {}
        self._contexts.enter(None)
        for job in self._not_ended():
            try:
                around = middleware(job)
                await type(around).__aenter__(around)
            except BaseException as error:  # noqa: BLE001 - as in Attempt
                self.end_one(job, self._ending_by(job, error))
            else:
                entered.append((job, around))
        if entered:
            await handle()
        for job, around in reversed(entered):
            await self._leave(job, around, self._raised.get(job.id))
        self._raised = None  # else an error would hold its frames, and the frames this attempt

    async def _leave(self, job: Job, around: AbstractAsyncContextManager[object], raised: BaseException | None) -> None:
        try:
            if raised is None:
                await type(around).__aexit__(around, None, None, None)
            else:
                await type(around).__aexit__(around, type(raised), raised, traceback_of(raised))
        except BaseException as error:  # noqa: BLE001 - as in Attempt
            if error is not raised:
                self.end_one(job, self._ending_by(job, error))

    # Outcomes -------------------------------------------------------------------------------------------------

    def end(self, ending: Ending) -> None:
        """Ends all jobs that have not ended alone."""
        ended, alike = monotonic(), dict[object, Outcome]()
        for job in self._not_ended():
            own = self._own_ending(job, ending, ended)
            key = job.failures, job.max_attempts, self._own_limit(job), type(own)  # the outcome depends on nothing else
            if outcome := alike.get(key):
                self._put(replace(outcome, job=job))
            else:
                alike[key] = self.end_one(job, own)

    def end_one(self, job: Job, ending: Ending) -> Outcome:
        """Ends a job alone, or again: what a middleware raises takes the place of what the handler has raised."""
        outcome = decide(job, ending, self.task.retries)
        outcome.ended = monotonic()
        self._put(outcome)
        return outcome

    def end_unbegun(self) -> None:
        for job in self._not_ended():
            self._put(unbegun(job))

    def _put(self, outcome: Outcome) -> None:
        self.outcomes[outcome.job.id] = outcome
        if len(self.outcomes) == len(self.jobs):
            self.outcome = outcome

    def _not_ended(self) -> list[Job]:
        return [job for job in self.jobs if job.id not in self.outcomes]

    def _note_raised(self, error: BaseException) -> None:
        if self._raised is not None:
            self._raised |= {job.id: error for job in self._not_ended()}
        super()._note_raised(error)

    def _note_returned(self, value: object) -> None:
        if forked:
            end_child(None)
        ended = monotonic()
        for job, ending in zip(self._called, endings_of_batch(value, len(self._called)), strict=True):
            own = self._ending_by(job, ending.error) if isinstance(ending, Raised) else ending
            self.end_one(job, self._timed_out(job, own, ended) or own)

    def _ending_by(self, job: Job, error: BaseException) -> Ending:
        if self._raised is not None:
            self._raised[job.id] = error
        return Stopped() if self._stop.is_set() and issubclass(type(error), CANCELLED) else Raised(error)

    def _own_ending(self, job: Job, ending: Ending, ended: float) -> Ending:
        """A job's part in what ends everybody: if another job's timeout has stopped the handler, a release."""
        if timed_out := self._timed_out(job, ending, ended):
            return timed_out
        return Stopped() if self.task.is_async and ended >= self.until else ending

    def _timed_out(self, job: Job, ending: Ending, ended: float) -> Ending | None:
        limit = self._own_limit(job)
        if limit and ended >= self._started + limit.total_seconds():
            return TimedOut(limit, ending.error if isinstance(ending, Raised) else None)
        return None

    def _own_limit(self, job: Job) -> timedelta | None:
        return job.timeout or self.task.timeout
