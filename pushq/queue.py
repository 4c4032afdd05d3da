"""The producer's side in Python: an INSERT in the caller's own transaction, as any other program would write."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from uuid import UUID

from pushq.database.statements import statement
from pushq.errors import PayloadError
from pushq.job import NewJob
from pushq.producers import COPY, COPY_SYNC, ENQUEUE, ENQUEUE_SYNC, INSERT, INSERT_SYNC
from pushq.producers.connections import AsyncConnection, HasSetAutocommit, SyncConnection
from pushq.producers.inserts import insert_of
from pushq.producers.rows import interval, parts
from pushq.spans import inserting
from pushq.storable import refuse_unstorable
from pushq.written import text_of

if TYPE_CHECKING:
    from pushq.reading import Artifact
    from pushq.waiting import Ended


class Enqueued(NamedTuple):
    """What `Queue.enqueue` did. id: the job's. inserted: True for a new job; False for one that stood in its way."""

    id: UUID
    inserted: bool


class Queue:
    """Inserts jobs.

    name: the queue of every job. None: each job's own queue. Raises TypeError or ValueError for what is no name of a
    queue.
    """

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            _refuse_no_name(name)
        self._name = name

    async def insert(self, job: NewJob, *, connection: AsyncConnection) -> UUID | None:
        """Inserts a job on the caller's connection, in the transaction of the connection if any.

        connection: a connection of asyncpg, an AsyncConnection of psycopg 3, or an AsyncSession or AsyncConnection of
        SQLAlchemy over either driver. Nothing is committed. An asyncpg pool inserts in a transaction of its own.

        Returns the job's id, or None if an unfinished job has the same unique_key or id. Raises PayloadError for a
        payload that is not JSON, or has a NUL or a lone surrogate, which jsonb does not take; UnusableConnection for
        anything else than an open connection of these; and the driver's own error, such as asyncpg's
        CheckViolationError, for a value that breaks a rule.
        """
        ids = await self.insert_many([job], connection=connection)
        return ids[0] if ids else None

    async def insert_many(self, jobs: Iterable[NewJob], *, connection: AsyncConnection) -> list[UUID]:
        """Inserts jobs in one statement: all, or none if a job is refused. Raises like insert.

        Returns the ids of the inserted jobs, in any order. Jobs whose unique_key is taken are left out.
        """
        run = INSERT.way(connection.__class__)
        with inserting("insert", jobs, self._name) as traceparent:
            if not (columns := columns_of(jobs, self._name, traceparent)):
                return []
            name, values = insert_of(columns)
            return _ids(await run(connection, statement(name), values))

    async def enqueue(
        self,
        job: NewJob,
        *,
        connection: AsyncConnection,
        standing: Literal["keep", "replace"] = "keep",
        window: timedelta | None = None,
        longest_delay: timedelta | None = None,
    ) -> Enqueued:
        """Inserts a job, or says which job stands in its way: an unfinished one with the same unique_key.

        connection: as for insert, and in its transaction. standing: what becomes of the unfinished job: keep, it stays
        as it is; replace, while it is queued it takes the new job's task, payload, queue, priority, run_at,
        max_attempts, timeout, correlation_id, traceparent, webhook_url, needs, limit_key and affinity. window: no
        second job with the key within this time of the call that inserted the first, even if the first is finished by
        then; at most a year. longest_delay: with replace, the job is due at most this long after it was enqueued,
        however often it is put off; at most a year.

        Returns (id, inserted). Raises like insert; ValueError for a job with an id of its own, since pushq chooses the
        id, for a window of a job without a unique_key, and for other values of these arguments; and TypeError for a
        window or longest_delay that is no timedelta.
        """
        (done,) = await self.enqueue_many(
            [job], connection=connection, standing=standing, window=window, longest_delay=longest_delay
        )
        return done

    async def enqueue_many(
        self,
        jobs: Iterable[NewJob],
        *,
        connection: AsyncConnection,
        standing: Literal["keep", "replace"] = "keep",
        window: timedelta | None = None,
        longest_delay: timedelta | None = None,
    ) -> list[Enqueued]:
        """The same for many jobs in one statement: all, or none if a job is refused.

        Returns one (id, inserted) for each job, in the order of the jobs. Of jobs with the same unique_key, the first
        is inserted, and stands in the way of the others.
        """
        with inserting("enqueue", jobs, self._name) as traceparent:
            values = _values_of(jobs, self._name, traceparent, standing, window, longest_delay)
            rows = await ENQUEUE.way(connection.__class__)(connection, statement("enqueue"), values)
        return [Enqueued(*row) for row in rows]

    async def wait(
        self,
        job_id: UUID,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as asyncio.wait_for has it
        url: str | None = None,
    ) -> Ended:
        """Waits until the job is finished, and returns its end.

        The INSERT must be committed. timeout: seconds, over 0; None: for ever. url: of the database; None: the one of
        the settings, `PUSHQ_DATABASE_URL`. All waits of an event loop share two connections. A wait that is cancelled
        leaves nothing behind, and the job goes on.

        Raises WaitTimeout, whose message tells what the job is doing; JobUnknown if there is no such job, or if its
        row is deleted meanwhile; ResultError if Python cannot decode the result; DatabaseTrouble if the database
        cannot be asked; SettingsError for a URL that cannot be used; and TypeError or ValueError for what is no id, no
        timeout or no URL. Errors of pushq that concern the job have its id as `job_id`.
        """
        from pushq.waiting import waiting_here  # noqa: PLC0415 - producers that wait for nothing import no driver

        return await waiting_here(url).wait(job_id, timeout)

    async def run(
        self,
        job: NewJob,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
        url: str | None = None,
    ) -> Ended:
        """Inserts a job, in a transaction of its own, waits until the job is finished, and returns its end.

        timeout: seconds for the whole call. All runs of an event loop share two more connections.

        Raises like wait; KeyTaken if an unfinished job has the same unique_key or id; PayloadError for a payload that
        is not JSON; and ValueRefused for a value that breaks a rule. `job_id` is None in an error if nothing was
        inserted. WaitTimeout and DatabaseAway say so if nobody knows whether the job was inserted.
        """
        from pushq.waiting import waiting_here  # noqa: PLC0415 - as above

        with inserting("run", [job], self._name) as traceparent:
            return await waiting_here(url).run(columns_of([job], self._name, traceparent), timeout)

    async def artifacts(self, job_id: UUID, *, url: str | None = None) -> list[Artifact]:
        """The artifacts that handlers have left with a job, by name. None, too, if the job cannot be seen.

        url: of the database; None: the one of the settings, `PUSHQ_DATABASE_URL`. Each call opens a connection. Raises
        DatabaseTrouble if the database cannot be asked, and SettingsError for a URL that cannot be used.
        """
        from pushq.reading import artifacts_of, opened  # noqa: PLC0415 - as above

        async with opened(url) as session:
            return await artifacts_of(session, job_id)

    async def artifact(self, job_id: UUID, name: str, *, url: str | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of an artifact, in pieces of at most 1 MiB: `async for piece in queue.artifact(job_id, name)`.

        Size and SHA-256 are checked at the end. Raises ArtifactUnknown if there is no such artifact, if it cannot be
        seen, and if a later attempt replaces it meanwhile; else as artifacts.
        """
        from pushq.reading import find, opened, pieces_of  # noqa: PLC0415 - as above

        async with opened(url) as session:
            async for piece in pieces_of(session, await find(session, job_id, name)):
                yield piece

    def insert_sync(self, job: NewJob, *, connection: SyncConnection) -> UUID | None:
        """The same as insert, where nothing is asynchronous.

        connection: a Connection of psycopg 3, a Session or Connection of SQLAlchemy over psycopg 3, or a connection of
        Django.
        """
        ids = self.insert_many_sync([job], connection=connection)
        return ids[0] if ids else None

    def insert_many_sync(self, jobs: Iterable[NewJob], *, connection: SyncConnection) -> list[UUID]:
        """The same as insert_many, where nothing is asynchronous, on the connections that insert_sync takes."""
        run = INSERT_SYNC.way(connection.__class__)
        with inserting("insert", jobs, self._name) as traceparent:
            if not (columns := columns_of(jobs, self._name, traceparent)):
                return []
            name, values = insert_of(columns)
            return _ids(run(connection, statement(name), values))

    def enqueue_sync(
        self,
        job: NewJob,
        *,
        connection: SyncConnection,
        standing: Literal["keep", "replace"] = "keep",
        window: timedelta | None = None,
        longest_delay: timedelta | None = None,
    ) -> Enqueued:
        """The same as enqueue, where nothing is asynchronous, on the connections that insert_sync takes."""
        (done,) = self.enqueue_many_sync(
            [job], connection=connection, standing=standing, window=window, longest_delay=longest_delay
        )
        return done

    def enqueue_many_sync(
        self,
        jobs: Iterable[NewJob],
        *,
        connection: SyncConnection,
        standing: Literal["keep", "replace"] = "keep",
        window: timedelta | None = None,
        longest_delay: timedelta | None = None,
    ) -> list[Enqueued]:
        """The same as enqueue_many, where nothing is asynchronous, on the connections that insert_sync takes."""
        with inserting("enqueue", jobs, self._name) as traceparent:
            values = _values_of(jobs, self._name, traceparent, standing, window, longest_delay)
            rows = ENQUEUE_SYNC.way(connection.__class__)(connection, statement("enqueue"), values)
        return [Enqueued(*row) for row in rows]

    async def copy(self, jobs: Iterable[NewJob], *, connection: AsyncConnection) -> int:
        """Inserts many jobs by COPY, in the caller's transaction if any: all, or none if a job is refused.

        jobs: may be a generator, which makes jobs while the server inserts those before. connection: a connection or
        pool of asyncpg, or an AsyncConnection of psycopg 3.

        Returns how many jobs were inserted. Raises like insert. COPY leaves nothing out: if an unfinished
        job has the unique_key or id, the driver raises UniqueViolationError. insert_many would leave the job out.
        """
        run = COPY.way(connection.__class__)
        with inserting("copy", jobs, self._name) as traceparent:
            return await run(connection, parts(jobs, encoded, self._name, traceparent))

    def copy_sync(self, jobs: Iterable[NewJob], *, connection: HasSetAutocommit) -> int:
        """The same as copy, where nothing is asynchronous. connection: a Connection of psycopg 3."""
        run = COPY_SYNC.way(connection.__class__)
        with inserting("copy", jobs, self._name) as traceparent:
            return run(connection, parts(jobs, encoded, self._name, traceparent))


def _refuse_no_name(name: object) -> None:
    """Never shows the value: it may be a URL with a password."""
    instead = "Queue() takes the name of a queue; give the connection to insert(job, connection=…)."
    if not isinstance(name, str):
        raise TypeError(f"A {type(name).__name__} is no name of a queue. {instead}")
    if "://" in name or not name.isprintable() or not 1 <= len(name) <= 200:
        kind = "A URL is no name of a queue." if "://" in name else "A queue's name has 1 to 200 printable characters."
        raise ValueError(f"{kind} {instead}")


def _ids(rows: Iterable[tuple[Any, ...]]) -> list[UUID]:
    return [job_id for (job_id,) in rows]


def _values_of(
    jobs: Iterable[NewJob],
    queue: str | None,
    traceparent: str | None,
    standing: str,
    window: timedelta | None,
    longest_delay: timedelta | None,
) -> list[object]:
    """The parameters of enqueue.sql. The database would refuse the same, under the names that its function has."""
    if isinstance(jobs, NewJob):
        raise _takes_several("enqueue")
    if standing not in ("keep", "replace"):
        raise ValueError(f"Queue.enqueue: standing is 'keep' or 'replace', not {standing!r}.")
    _refuse_no_span("window", window)
    _refuse_no_span("longest_delay", longest_delay)
    if longest_delay is not None and standing != "replace":
        raise ValueError(
            "Queue.enqueue: longest_delay bounds how long calls put a job off; give standing='replace', or no "
            "longest_delay."
        )
    objects = [_object_of(job, queue, traceparent, has_window=window is not None) for job in jobs]
    return [f"[{', '.join(objects)}]", standing, window, longest_delay]


_A_YEAR = timedelta(days=366)


def _refuse_no_span(name: str, span: object) -> None:
    if span is None:
        return
    if not isinstance(span, timedelta):
        raise TypeError(f"Queue.enqueue: {name} is a timedelta: timedelta(hours=1), not of type {type(span).__name__}.")
    if not timedelta(0) < span <= _A_YEAR:
        raise ValueError(f"Queue.enqueue: {name} is over 0 and at most a year: timedelta(hours=1), not {span!r}.")


def _object_of(job: NewJob, queue: str | None, traceparent: str | None, *, has_window: bool) -> str:
    """A job as pushq.enqueue_many() takes it."""
    _refuse_no_job(job, "enqueue")
    if job.id is not None:
        raise ValueError(f"Queue.enqueue gives each job an id, and this {job.task!r} job has one: use Queue.insert.")
    if has_window and job.unique_key is None:
        raise ValueError(
            f"Queue.enqueue: window is a key's, and this {job.task!r} job has no unique_key; give one, or no window."
        )
    columns = {
        "task": job.task,
        "queue": queue or job.queue,
        "priority": job.priority,
        "run_at": job.run_at.isoformat() if job.run_at else None,
        "max_attempts": job.max_attempts,
        "timeout": None if job.timeout is None else interval(job.timeout),
        "unique_key": job.unique_key,
        "tenant_id": job.tenant_id,
        "correlation_id": job.correlation_id,
    }
    seldom = {
        "traceparent": traceparent if job.traceparent is None else job.traceparent,
        "webhook_url": job.webhook_url,
        "needs": job.needs,
        "limit_key": job.limit_key,
        "affinity": job.affinity,
    }
    columns |= {name: value for name, value in seldom.items() if value is not None}
    return f'{{"payload": {encoded(job)}, {_encode(columns)[1:]}'


def columns_of(jobs: Iterable[NewJob], queue: str | None = None, traceparent: str | None = None) -> list[list[object]]:
    """One list a column, as insert_of takes them; none if there is no job.

    queue: instead of the jobs' own. traceparent: of jobs that have none of their own.
    """
    if isinstance(jobs, NewJob):
        raise _takes_several("insert")
    return [list(column) for column in zip(*[_row(job, queue, traceparent) for job in jobs], strict=True)]


def _row(job: NewJob, queue: str | None, traceparent: str | None) -> tuple[object, ...]:
    _refuse_no_job(job, "insert")
    return (
        job.id,
        job.task,
        encoded(job),
        queue or job.queue,
        job.priority,
        job.run_at,
        job.max_attempts,
        job.timeout,
        job.unique_key,
        job.tenant_id,
        job.correlation_id,
        traceparent if job.traceparent is None else job.traceparent,
        job.webhook_url,
        job.needs and _encode(job.needs),
        job.limit_key,
        job.affinity,
    )


def _refuse_no_job(job: object, verb: str) -> None:
    if not isinstance(job, NewJob):
        raise TypeError(f"Queue.{verb} takes a job, not a {type(job).__name__}: task.job(…), or NewJob('task', {{…}}).")


def _takes_several(verb: str) -> TypeError:
    return TypeError(f"Queue.{verb}_many takes several jobs, and was given one: use {verb}, or put the job in a list.")


def encoded(job: NewJob) -> str:
    """The payload as JSON text. Raises PayloadError."""
    if text := text_of(job.payload):
        return text
    try:
        text = _encode(dict(job.payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"The payload of a {job.task!r} job is not JSON: {error}.") from None
    try:
        refuse_unstorable(text)
    except ValueError as error:
        raise PayloadError(
            f"The payload of a {job.task!r} job has {error}, which jsonb does not take: leave the character out, or "
            "send bytes as base64."
        ) from None
    return text


_encode = json.JSONEncoder(allow_nan=False).encode
