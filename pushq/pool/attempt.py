"""One attempt at a job: decodes the payload, calls the handler within its time, and decides the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent import futures
from math import inf
from time import monotonic
from typing import Any

import anyio

from pushq.errors import PayloadError
from pushq.job import Job
from pushq.middleware import Middleware
from pushq.outcome import Ending, Kind, Outcome, Raised, Returned, Stopped, TimedOut, decide, unbegun
from pushq.pool.forks import end_child, forked
from pushq.pool.leftovers import Contexts, time_limit
from pushq.spans import Span, SpanMaker
from pushq.task import Task

CANCELLED = (asyncio.CancelledError, futures.CancelledError)
"""Raised in a handler by a cancellation: the second in a `def` whose thread waits for the event loop."""


class Attempt:
    """One call of a job's handler. The handler of a batch is called by a BatchAttempt.

    given: the payload's text, until the text is decoded. limit: the handler's time. began, until: instants of
    `time.monotonic()`. errors: raised by the handler, and to be raised again in the middleware; None without a
    middleware. outcome: None until the handler ends.
    """

    __slots__ = ("_contexts", "_stop", "began", "errors", "given", "job", "limit", "outcome", "task", "until")

    def __init__(self, job: Job, task: Task[..., Any], contexts: Contexts, stop: anyio.Event) -> None:
        self.job = job
        self.task = task
        self.limit = job.timeout or task.timeout
        self.began = monotonic()
        self.until = inf
        self.given = [job.payload] if job.payload else []
        self.errors: list[BaseException] | None = None
        self.outcome: Outcome | None = None
        self._contexts = contexts
        self._stop = stop

    @property
    def jobs(self) -> Sequence[Job]:
        """The jobs that the handler is called for."""
        return (self.job,)

    @property
    def calls(self) -> Sequence[Callable[[], None]]:
        """The calls to make in a thread, one after the other, for a `def`."""
        return (self.call,)

    @property
    def all_outcomes(self) -> Sequence[Outcome]:
        """The outcomes of the jobs, as far as there are any."""
        return (self.outcome,) if self.outcome else ()

    def begin_span(self, maker: SpanMaker) -> Span:
        return maker.of_attempt(self.job)

    def start_clock(self) -> None:
        """The handler is called now."""
        self.until = monotonic() + self.limit.total_seconds() if self.limit else inf

    async def run(self) -> None:
        """Calls an `async def`, in a task and a context of its own."""
        try:
            self._contexts.enter(self.job)
            value = await self.task.function(**self.task.form.arguments(self.given.pop()))
        except BaseException as error:  # noqa: BLE001 - SystemExit too: only our own parent stops us
            self._note_raised(error)
        else:
            self._note_returned(value)

    async def run_in_time(self) -> None:
        """Calls an `async def`, and cancels the call when its time is over."""
        self.start_clock()
        with time_limit(self.until):
            await self.run()

    async def run_inside(self, middleware: Middleware, handle: Callable[[], Awaitable[None]]) -> None:
        """Enters the middleware, then has the handler called by `handle`, in the middleware's context.

        The handler's outcome is decided where the handler ends: a middleware that swallows an error changes nothing.
        """
        raised = self.errors = []
        try:
            self._contexts.enter(self.job)
            async with middleware(self.job):
                await handle()
                if raised:
                    raise raised[0]
        except BaseException as error:  # noqa: BLE001 - as above
            if not any(error is one for one in raised):  # `in` would run code of the exception
                self._note_raised(error)
        finally:
            raised.clear()  # else an error would hold its frames, and the frames this attempt

    def call(self) -> None:
        """Calls a `def`, in a thread and a context of its own."""
        try:
            self._contexts.enter(self.job)
            value = self.task.function(**self.task.form.arguments(self.given.pop()))
        except BaseException as error:  # noqa: BLE001 - as above
            self._note_raised(error)
        else:
            self._note_returned(value)

    def end(self, ending: Ending) -> None:
        """Decides the outcome. The clock tells whether a limit was kept: a blocked loop could not cancel in time."""
        ended = monotonic()
        if self.limit and ended >= self.until:
            ending = TimedOut(self.limit, ending.error if isinstance(ending, Raised) else None)
        self.outcome = decide(self.job, ending, self.task.retries)
        self.outcome.ended = ended

    def end_unbegun(self) -> None:
        """No thread was left to call the handler."""
        self.outcome = unbegun(self.job)

    def _note_raised(self, error: BaseException) -> None:
        if forked:
            end_child(error)
        if self.errors is not None:
            self.errors.append(error)
        if self._stop.is_set() and issubclass(type(error), CANCELLED):
            self.end(Stopped())
            return
        if issubclass(type(error), PayloadError):
            self.until = inf
        self.end(Raised(error))

    def _note_returned(self, value: object) -> None:
        if forked:
            end_child(None)
        if value is None and self.until is inf:  # the usual ending, without the cost of deciding
            self.outcome = Outcome(self.job, Kind.SUCCEEDED)
            self.outcome.ended = monotonic()
            return
        self.end(Returned(value))
