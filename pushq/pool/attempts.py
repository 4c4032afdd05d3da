"""Makes the attempts of a pool, on the event loop or in threads. Stops attempts at the pool's deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from math import inf
from typing import Any

import anyio
from anyio import to_thread
from anyio._backends._asyncio import _task_states
from anyio.lowlevel import checkpoint

from pushq.artifacts import drafts, give_up
from pushq.batch import BatchForm
from pushq.errors import PayloadError, UnexpectedState
from pushq.events import NoThread, publish
from pushq.job import Job
from pushq.middleware import Middleware
from pushq.outcome import Outcome, Raised, Stopped, released
from pushq.pool.attempt import Attempt
from pushq.pool.batch import BatchAttempt
from pushq.pool.leftovers import Contexts
from pushq.pool.loop import PoolLoop
from pushq.pool.transactions import Transactions
from pushq.progress import ledger
from pushq.recalled import recalled
from pushq.spans import Span, span_maker
from pushq.task import Task

LoadPayload = Callable[[Job], Awaitable[str | None]]
"""Fetches a payload that was too large for the claim. None: the job no longer runs under its token."""

Settle = Callable[[Sequence[Outcome]], Awaitable[None]]
"""Writes the progress that the handlers have told."""


async def _nothing_to_settle(_: Sequence[Outcome]) -> None: ...


REST = 1.0
"""Seconds of rest for a worker that found no thread."""
CANCEL_AGAIN = 0.01
"""Seconds until an attempt that goes on is cancelled again."""


class Attempts:
    def __init__(
        self,
        load_payload: LoadPayload,
        middleware: Middleware | None = None,
        settle: Settle = _nothing_to_settle,
        transactions: Transactions | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PoolLoop)
        self._loop = loop
        self._load_payload = load_payload
        self._middleware = middleware
        self._settle = settle
        self._transactions = transactions
        self._contexts = Contexts()
        self._carry_out = self._call_in_span if span_maker() else self._call
        self._threads = anyio.CapacityLimiter(inf)  # a worker has one call at a time
        self._waiting = dict[asyncio.Task[None], Attempt]()  # attempts on the loop
        self._called = dict[Attempt, anyio.CancelScope]()  # attempts in threads
        self._recalled = set[Attempt]()  # attempts none of whose jobs is ours any more
        self._scopes = set[anyio.CancelScope]()  # around calls in threads, fetches of payloads, and rests
        self._stop = anyio.Event()

    def make(self, job: Job, task: Task[..., Any]) -> Coroutine[Any, Any, Outcome]:
        """Makes an attempt at a job. If the pool stops before the attempt begins, the job is released."""
        return self._make_in_transaction(job, task) if task.transactional else self._make(job, task)

    async def _make_in_transaction(self, job: Job, task: Task[..., Any]) -> Outcome:
        """The same for a handler that may have a connection. The outcome may be written already."""
        assert self._transactions
        transaction = self._transactions.of(job, self._stoppable)
        try:
            return await transaction.end(await self._make(job, task), task.retries)
        finally:
            await transaction.close()

    async def _make(self, job: Job, task: Task[..., Any]) -> Outcome:
        attempt = Attempt(job, task, self._contexts, self._stop)
        if not attempt.given:
            found = await self._load(job, task)
            if isinstance(found, PayloadError):
                attempt.end(Raised(found))
            elif found:
                attempt.given.append(found)
        if not attempt.given or self._stop.is_set():
            return attempt.outcome or released(job)
        await self._carry_out(attempt)
        assert attempt.outcome
        attempt.outcome.began = attempt.began
        if ledger.told or drafts:
            await self._close([attempt.outcome])
        return attempt.outcome

    async def make_batch(self, jobs: Sequence[Job], task: Task[..., Any]) -> list[Outcome]:
        """Makes one attempt at jobs whose handler takes batches. Returns an outcome for each."""
        assert isinstance(task.form, BatchForm)
        loaded, refused = list[Job](), list[tuple[Job, PayloadError]]()
        for job in jobs:
            payload = job.payload or await self._load(job, task)
            if isinstance(payload, PayloadError):
                refused.append((job, payload))
            elif payload:
                loaded.append(job._replace(payload=payload))
        if not (ours := [*loaded, *(job for job, _ in refused)]):
            return [released(job) for job in jobs]
        attempt = BatchAttempt(ours, task, task.form, self._contexts, self._stop)
        for job, error in refused:
            attempt.end_one(job, Raised(error))
        if loaded and not self._stop.is_set():
            await self._carry_out(attempt)
        for outcome in attempt.outcomes.values():
            outcome.began = attempt.began
        await self._close([*attempt.outcomes.values()])
        return [attempt.outcomes.get(job.id) or released(job) for job in jobs]

    async def _close(self, outcomes: Sequence[Outcome]) -> None:
        """The handlers have ended: gives up artifacts that they have left open, and writes their progress."""
        give_up([outcome.job.fence for outcome in outcomes])
        await self._settle(outcomes)

    async def _call_in_span(self, attempt: Attempt) -> None:
        """The same as _call, inside of a span, which ends with the outcomes."""
        maker = span_maker()
        assert maker
        span = attempt.begin_span(maker)
        await self._call(attempt, span)
        span.end(attempt.all_outcomes)

    async def _call(self, attempt: Attempt, span: Span | None = None) -> None:
        """Calls the handler, on the loop or in a thread. Then the attempt has an outcome."""
        if not attempt.task.is_async and not self._middleware:
            await self._call_in_thread(attempt, span)
            return
        context = self._contexts.copy()
        if span:
            context.run(span.enter)
        begun = self._loop.begin(self._on_loop(attempt), context, attempt.task.name)
        if not begun.done():
            await self._wait_ended(begun, attempt)
        if not attempt.outcome:
            begun.result()  # raises: a fault of the pool, not of the handler

    def _on_loop(self, attempt: Attempt) -> Coroutine[Any, Any, None]:
        run = attempt.run_in_time if attempt.limit else attempt.run
        if not self._middleware:
            return run()
        return attempt.run_inside(
            self._middleware, run if attempt.task.is_async else lambda: self._call_in_thread(attempt)
        )

    def begin_from(self, context: Context) -> None:
        """Later attempts copy this context, here and in workers that the current task starts."""
        for variable, value in context.items():
            variable.set(value)
        self._contexts = Contexts()
        self._carry_out = self._call_in_span if span_maker() else self._call

    async def rest(self) -> None:
        """Keeps a worker that found no thread busy, so that fewer jobs are claimed."""
        with self._stoppable():
            await anyio.sleep(0 if self._stop.is_set() else REST)

    def stop(self) -> None:
        """Cancels the attempts under way, and releases jobs whose attempts have not begun."""
        self._stop.set()
        for scope in self._scopes:
            scope.cancel()
        self._cancel_waiting()

    def recall(self, attempt: Attempt, jobs: Sequence[Job]) -> None:
        """Some jobs of an attempt are no longer ours. If none is, cancels the attempt, as a timeout would."""
        recalled.update(job.fence for job in jobs)
        if any(job.fence not in recalled for job in attempt.jobs):
            return
        self._recalled.add(attempt)
        if scope := self._called.get(attempt):
            scope.cancel()
        self._cancel_recalled()

    def under_way(self) -> list[tuple[Attempt, asyncio.Task[None] | None]]:
        """The attempts under way; with its task, if the attempt waits on the loop. May be called from any thread."""
        on_loop = [(attempt, task) for task, attempt in list(self._waiting.items())]
        return on_loop + [(attempt, None) for attempt in list(self._called)]

    async def _load(self, job: Job, task: Task[..., Any]) -> str | PayloadError | None:
        """A payload that did not come with the claim. None: the pool stops, or the job is no longer ours."""
        with self._stoppable():
            try:
                return await self._load_payload(job)
            except UnexpectedState as error:
                reason = str(error).rstrip(".")
                return PayloadError(f"The payload of task {task.name!r} cannot be read: {reason}.")
        return None

    async def _wait_ended(self, task: asyncio.Task[None], attempt: Attempt) -> None:
        self._waiting[task] = attempt
        while not task.done():
            try:
                await task  # is cancelled if this worker is
            except asyncio.CancelledError:
                continue
        del self._waiting[task]
        if attempt.outcome and attempt.outcome.error_type == "CancelledError":
            await checkpoint()  # raises if a fault ends the pool: then the pool has cancelled the handler

    def _cancel_waiting(self) -> None:
        """Cancels until all have ended, as a scope of anyio's would. A scope for each attempt would cost too much."""
        _cancel(self._waiting)
        if self._waiting:
            self._loop.call_later(CANCEL_AGAIN, self._cancel_waiting)

    def _cancel_recalled(self) -> None:
        """The same for attempts that were recalled."""
        waiting = [task for task, attempt in self._waiting.items() if attempt in self._recalled]
        _cancel(waiting)
        if waiting:
            self._loop.call_later(CANCEL_AGAIN, self._cancel_recalled)
        else:
            self._recalled.clear()

    async def _call_in_thread(self, attempt: Attempt, span: Span | None = None) -> None:
        """Waits until the call returns, even if stopped. A handler can ask anyio whether its time is over."""
        for call in attempt.calls if not span else [partial(_inside, span, call) for call in attempt.calls]:
            attempt.start_clock()
            with self._stoppable(attempt.until) as scope:
                self._called[attempt] = scope
                try:
                    await to_thread.run_sync(call, limiter=self._threads)
                except (RuntimeError, MemoryError) as error:  # the handler was not called
                    publish(NoThread(str(error) or type(error).__name__))
                    attempt.end_unbegun()
                finally:
                    del self._called[attempt]
            if attempt.outcome or self._stop.is_set():
                break
        if not attempt.outcome:  # was cancelled before the call began
            attempt.end(Stopped())

    @contextmanager
    def _stoppable(self, until: float = inf) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope(deadline=until) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)


def _inside(span: Span, call: Callable[[], None]) -> None:
    span.enter()
    call()


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        if not _is_shielded(task):
            task.cancel()


def _is_shielded(task: asyncio.Task[None]) -> bool:
    """Whether the task waits in a scope that shields from cancellation.

    anyio has no public function for this. If the private names change, a test in `test_attempt.py` fails:
    `test_who_is_stopped_is_cancelled_until_it_heeds_it_and_not_where_it_is_shielded`.
    """
    state = _task_states.get(task)
    scope = state.cancel_scope if state else None
    while scope and not scope.shield:
        scope = scope._parent_scope  # noqa: SLF001
    return scope is not None
