"""Calls a handler as a pool would, in the test's own process and event loop."""

from __future__ import annotations

import json
from asyncio import CancelledError
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final
from uuid import uuid4

import anyio
from anyio import to_thread

from pushq.artifacts import Keeper, give_up, keepers
from pushq.batch import BatchForm
from pushq.current import set_current_job
from pushq.job import Job, NewJob
from pushq.lifespan import set_resources
from pushq.outcome import Raised, Returned, decide, endings_of_batch
from pushq.progress import ledger
from pushq.queue import encoded
from pushq.settings import Settings
from pushq.spans import Span, span_maker
from pushq.task import Task, Tasks
from pushq.testing.artifacts import Memory, limits_of
from pushq.transactions import transactions

ENTERED: Final[Any] = object()
"""Resources that the registry's lifespan is to yield."""


async def run(
    tasks: Tasks,
    job: NewJob,
    *,
    attempt: int = 1,
    resources: Any = ENTERED,
    artifacts: MutableMapping[str, bytes] | None = None,
    connection: Any = None,
) -> Any:
    """Runs the handler of a job, and returns what the handler returns. There is no database.

    The payload goes through JSON and the handler's annotations, as in a pool. `current_job()` is the job, in its
    `attempt`, with one failure fewer behind it. A handler of batches gets a list of one job. The middleware and the
    lifespan of the registry are entered. `resources` takes the place of what the lifespan yields. `artifacts` takes
    the bytes of what the handler leaves, by name; give those of an earlier attempt, if any. `connection` is what a
    transactional handler gets, in the transaction in which the test has the connection. Raises what the handler
    raises, also Retry and Cancel; TimeoutError after the timeout; PayloadError for a payload that does not fit;
    TasksError for a task that is not registered.
    """
    async with shared(tasks, resources):
        claimed = _claimed(job, attempt)
        memory = Memory({} if artifacts is None else artifacts, limits_of(Settings.load()))
        with kept_by(memory, claimed), lent(tasks, claimed, connection):
            return await call(tasks, claimed)


@asynccontextmanager
async def shared(tasks: Tasks, resources: Any = ENTERED) -> AsyncIterator[None]:
    """Enters the lifespan of a registry, if there is any and no resources are given in its place."""
    async with AsyncExitStack() as entered:
        if resources is ENTERED and tasks.lifespan_of_app:
            resources = await entered.enter_async_context(tasks.lifespan_of_app())
        if resources is not ENTERED:
            token = set_resources(resources)
            entered.callback(token.var.reset, token)
        if misfit := tasks.misfit(None if resources is ENTERED else resources):
            raise misfit
        yield


@contextmanager
def kept_by(keeper: Keeper, job: Job) -> Iterator[None]:
    """The keeper keeps what the job's handler leaves."""
    keepers[job.fence] = keeper
    try:
        yield
    finally:
        del keepers[job.fence]


@contextmanager
def lent(tasks: Tasks, job: Job, connection: Any) -> Iterator[None]:
    """The job's handler gets the connection, if there is one and the handler is transactional."""
    if connection is None or not tasks.find(job.task).transactional:
        yield
        return

    async def begin() -> Any:
        return connection

    transactions[job.fence] = begin
    try:
        yield
    finally:
        del transactions[job.fence]


async def call(tasks: Tasks, job: Job) -> Any:
    """The value that the handler of a claimed job returns. Raises what the handler raises."""
    ending = await ending_of(tasks, job)
    if isinstance(ending, Raised):
        raise ending.error
    return ending.value


async def ending_of(tasks: Tasks, job: Job) -> Returned | Raised:
    """Calls the handler of a claimed job, in a task and a context of its own.

    Raises TimeoutError after the job's time, and CancelledError if the test itself is cancelled.
    """
    task = tasks.find(job.task)
    limit = job.timeout or task.timeout
    ended = list[Returned | Raised]()  # by the handler, or in its place by the middleware
    maker = span_maker()
    span = None if not maker else maker.of_batch([job]) if task.batch else maker.of_attempt(job)
    try:
        with anyio.fail_after(limit.total_seconds() if limit else None):
            async with anyio.create_task_group() as group:
                group.start_soon(_call, tasks, task, job, ended, span)
    finally:
        give_up([job.fence])
        ledger.close([job.fence])
        if span:
            span.end([decide(job, ended[-1], task.retries)] if ended else [])
    return ended[-1]


async def _call(
    tasks: Tasks, task: Task[..., Any], job: Job, ended: list[Returned | Raised], span: Span | None
) -> None:
    """An exception counts even if the middleware swallows it, and what the middleware raises counts in its place."""
    if not task.batch:
        set_current_job(job)
    if span:
        span.enter()
    try:
        async with AsyncExitStack() as around:
            if tasks.middleware_of_app:
                await around.enter_async_context(tasks.middleware_of_app(job))
            try:
                call = partial(task.function, **_arguments(task, job))
                value = await (call() if task.is_async else to_thread.run_sync(call))
                ended.append(Returned(_only(value) if task.batch else value))
            except BaseException as error:
                ended.append(Raised(error))
                raise
    except (Exception, SystemExit, CancelledError, GeneratorExit) as error:  # noqa: BLE001 - raised by the caller
        if not ended or not (isinstance(ended[0], Raised) and ended[0].error is error):
            ended.append(Raised(error))


def _arguments(task: Task[..., Any], job: Job) -> dict[str, Any]:
    if isinstance(task.form, BatchForm):
        return task.form.call_with([task.form.decoded(job)])
    return task.arguments(job.payload or "{}")


def _only(returned: object) -> object:
    """The one result of a batch of one job. Raises what stands in its place."""
    (ending,) = endings_of_batch(returned, 1)
    if isinstance(ending, Raised):
        raise ending.error
    return ending.value


def _claimed(job: NewJob, attempt: int) -> Job:
    extras: dict[str, object] = {"traceparent": job.traceparent} if job.traceparent else {}
    if job.affinity:
        extras |= {"affinity": job.affinity, "affinity_changed": True}  # the worker has run nothing before
    return Job(
        id=job.id or uuid4(),
        task=job.task,
        queue=job.queue,
        payload=encoded(job),
        attempt=attempt,
        failures=attempt - 1,
        crashes=0,
        max_attempts=job.max_attempts,
        timeout=job.timeout,
        tenant_id=job.tenant_id,
        correlation_id=job.correlation_id,
        token=uuid4(),
        extras=json.dumps(extras) if extras else None,
    )
