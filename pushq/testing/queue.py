"""A queue in a database of a test's own: what was inserted, run on request, with time that a test moves."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import anyio

from pushq.artifacts import Keeper
from pushq.database.lending import Lender
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.job import Job, NewJob
from pushq.outcome import Outcome, Raised, Returned, TimedOut, decide
from pushq.pool.artifacts import ArtifactKeeper
from pushq.pool.seats import Seat
from pushq.pool.store import Claimant, Terms
from pushq.pool.store import Store as PoolStore
from pushq.pool.transactions import Transactions
from pushq.queue import Queue
from pushq.reading import artifacts_of, pieces_of
from pushq.settings import Settings
from pushq.supervisor.store import Store as SupervisorStore
from pushq.task import Tasks
from pushq.testing.artifacts import limits_of
from pushq.testing.inline import ENTERED, ending_of, kept_by, shared

MOST = 1000
"""Attempts in a drain. A job that inserts the next, or is tried again at once, would else never end it."""
_LEASE = 3600.0


class _Store(PoolStore, SupervisorStore):
    """What a pool and its supervisor say."""


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job's row, with its payload and result as Python's values. The names are those of the columns.

    id: the row's id. task: the task's name. queue: the lane. status: `queued`, `running`, `succeeded`, `failed` or
    `cancelled`. priority: smaller numbers run first. payload: a dict. result: what the handler returned, through JSON.
    error: the last attempt's error. traceback: the error's traceback. run_at: the earliest start. attempt: runs so far.
    failures: failed attempts so far. unique_key: as inserted. tenant_id: as inserted. correlation_id: as inserted.
    traceparent: as inserted. webhook_url: as inserted. needs: a dict of names to units, with those that pushq added.
    limit_key: as inserted. affinity: as inserted.
    """

    id: UUID
    task: str
    queue: str
    status: str
    priority: int
    payload: Any
    result: Any
    error: str | None
    traceback: str | None
    run_at: datetime
    attempt: int
    failures: int
    unique_key: str | None
    tenant_id: str | None
    correlation_id: str | None
    traceparent: str | None
    webhook_url: str | None
    needs: dict[str, int] | None
    limit_key: str | None
    affinity: str | None


class TestQueue:
    """A queue for one test, as the fixture `pushq_queue` gives it.

    url: of a database that has pushq's schema, and no jobs at first.
    """

    __test__ = False  # for pytest

    def __init__(self, url: str) -> None:
        self.url = url

    async def insert(self, *jobs: NewJob) -> list[UUID]:
        """Inserts jobs in a transaction of their own.

        Returns the ids of the inserted jobs. Raises PayloadError for a payload that is not JSON.
        """
        async with self._session() as session:
            return await Queue().insert_many(jobs, connection=session)

    async def inserted(self, task: str | None = None, **payload: Any) -> list[FoundJob]:
        """The jobs in the order in which they were inserted, finished or not.

        task: only jobs of this task. payload: only jobs whose payload holds these values.
        """
        async with self._session() as session:
            return await _find(session, task=task, payload=payload)

    async def drain(
        self, tasks: Tasks, *, queues: tuple[str, ...] | None = None, resources: Any = ENTERED
    ) -> list[FoundJob]:
        """Runs the jobs that are due, one after another in this process, until none is left.

        Jobs are claimed and their outcomes written by the statements of a pool. Jobs that handlers insert run, too, and
        failed attempts are made again when they are due: see `pass_time`. Returns the rows of the jobs that ran, in the
        order of their first attempts. queues: None for `default` and those of the tasks. resources: in place of what
        the lifespan yields. Raises AssertionError after 1,000 attempts.
        """
        claimant = Claimant(
            f"test-{uuid4().hex[:8]}", 1, queues or tuple(dict.fromkeys(("default", *tasks.queues))), tasks.names
        )
        ran = dict[UUID, None]()
        seat = Seat()
        async with (
            self._session() as session,
            _lease(session, claimant, tasks) as store,
            _keeper(self.url) as keeper,
            _transactions(self.url, store) as transactions,
            shared(tasks, resources),
        ):
            for _ in range(MOST):
                if not (jobs := await store.claim(claimant, uuid4(), 1, terms=Terms(1))):
                    return await _find(session, ids=list(ran))
                ran |= dict.fromkeys(job.id for job in jobs)
                outcomes = [await _attempt(store, keeper, tasks, seat.sit(job), transactions) for job in jobs]
                await store.finish([outcome for outcome in outcomes if not outcome.is_written])
        raise AssertionError(f"{MOST} attempts, and still jobs are due: does one insert the next?")

    async def artifacts(self, job_id: UUID) -> dict[str, bytes]:
        """The bytes of what handlers have left with a job, by name."""
        async with self._session() as session:
            return {
                one.name: b"".join([piece async for piece in pieces_of(session, one)])
                for one in await artifacts_of(session, job_id)
            }

    async def pass_time(self, time: timedelta) -> None:
        """Makes everything in the queue older, so that what is due within that time is due now."""
        async with self._session() as session:
            await session.fetch(statement("age"), time)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        session = Session(self.url, "pushq test", settings={"enable_seqscan": "on"})
        try:
            yield session
        finally:
            await session.close()


@asynccontextmanager
async def _lease(session: Session, claimant: Claimant, tasks: Tasks) -> AsyncIterator[_Store]:
    store = _Store(session)
    await store.heartbeat(claimant.supervisor, socket.gethostname(), os.getpid(), _LEASE)
    await store.register(claimant, tasks.needs)
    if tasks.needs:
        await session.fetch("select pushq.stamp()")  # as a sweeper does
    try:
        yield store
    finally:
        await store.goodbye(claimant.supervisor)


@asynccontextmanager
async def _keeper(url: str) -> AsyncIterator[Keeper]:
    """Keeps artifacts in the database, as a pool does."""
    session = Session(url, "pushq test: artifacts")
    keeper = ArtifactKeeper(session, limits_of(Settings.load()))
    raised: BaseException | None = None
    async with anyio.create_task_group() as beside:
        beside.start_soon(keeper.run)
        try:
            yield keeper
        except BaseException as error:  # noqa: BLE001 - raised below: a group would raise a group
            raised = error
        beside.cancel_scope.cancel()
    await session.close()
    if raised:
        raise raised


@asynccontextmanager
async def _transactions(url: str, store: _Store) -> AsyncIterator[Transactions]:
    """The transactions of transactional handlers, as in a pool."""
    lender = Lender(url, "pushq test: handlers")
    try:
        yield Transactions(lender, store, store)
    finally:
        await lender.close()


async def _attempt(store: _Store, keeper: Keeper, tasks: Tasks, job: Job, transactions: Transactions) -> Outcome:
    task = tasks.find(job.task)
    if not task.transactional:
        return await _made(store, keeper, tasks, job)
    transaction = transactions.of(job, anyio.CancelScope)
    try:
        return await transaction.end(await _made(store, keeper, tasks, job), task.retries)
    finally:
        await transaction.close()


async def _made(store: _Store, keeper: Keeper, tasks: Tasks, job: Job) -> Outcome:
    task, began = tasks.find(job.task), monotonic()
    if job.payload is None:
        job = job._replace(payload=await store.payload(job))
    limit = job.timeout or task.timeout
    ending: Returned | Raised | TimedOut
    try:
        with kept_by(keeper, job):
            ending = await ending_of(tasks, job)
    except TimeoutError as error:
        ending = Raised(error)
    if isinstance(ending, Raised) and limit and monotonic() - began >= limit.total_seconds():
        ending = TimedOut(limit, ending.error)
    outcome = decide(job, ending, task.retries)
    outcome.began, outcome.ended = began, monotonic()
    return outcome


async def _find(
    session: Session, *, task: str | None = None, payload: object = None, ids: list[UUID] | None = None
) -> list[FoundJob]:
    rows = await session.fetch(statement("find_jobs"), task, json.dumps(payload or {}), ids)
    return [_found(row) for row in rows]


def _found(row: Any) -> FoundJob:
    texts = {name: row[name] and json.loads(row[name]) for name in ("payload", "result", "needs")}
    return FoundJob(**(dict(row) | texts))
