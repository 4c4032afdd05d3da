"""The producer's side in Python: an INSERT in the caller's own transaction, as any other program would write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from pushq.database.statements import statement
from pushq.errors import PayloadError
from pushq.job import NewJob


@runtime_checkable
class Connection(Protocol):
    """An asyncpg connection, or a connection lent by an asyncpg pool."""

    async def fetch(self, query: str, /, *args: Any) -> list[Any]: ...


class Queue:
    """Inserts jobs into the queue `name`. None: into each job's own queue."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    async def insert(self, job: NewJob, *, connection: Connection) -> UUID | None:
        """Inserts a job on the caller's connection, in the transaction of the connection if any.

        Returns the job's id, or None if an unfinished job has the same unique_key or id. Raises PayloadError for a
        payload that is not JSON, TypeError for a connection of another driver, and asyncpg's CheckViolationError, with
        the constraint's name, for a value that breaks a rule.
        """
        ids = await self.insert_many([job], connection=connection)
        return ids[0] if ids else None

    async def insert_many(self, jobs: Iterable[NewJob], *, connection: Connection) -> list[UUID]:
        """Inserts jobs in one statement: all, or none if a job is refused. Raises like insert.

        Returns the ids of the inserted jobs, in any order. Jobs whose unique_key is taken are left out.
        """
        _check_connection(connection)
        rows = [self._row(job) for job in jobs]
        if not rows:
            return []
        columns = [list(column) for column in zip(*rows, strict=True)]
        return [row["id"] for row in await connection.fetch(statement("insert"), *columns)]

    def _row(self, job: NewJob) -> tuple[object, ...]:
        if not isinstance(job, NewJob):
            raise TypeError(
                f"Queue.insert takes a job, not a {type(job).__name__}: task.job(…), or NewJob('task', {{…}})."
            )
        return (
            job.id,
            job.task,
            encoded(job),
            self._name or job.queue,
            job.priority,
            job.run_at,
            job.max_attempts,
            job.timeout,
            job.unique_key,
            job.tenant_id,
            job.correlation_id,
        )


def _check_connection(connection: object) -> None:
    if not isinstance(connection, Connection):
        kind = type(connection)
        # The asyncpg connection inside another driver may not be in the driver's transaction.
        raise TypeError(
            f"Queue.insert takes a connection of asyncpg, not {kind.__module__}.{kind.__qualname__}; "
            "with SQLAlchemy, psycopg, Django or another driver, write the INSERT: see docs/insert-jobs.md."
        )


def encoded(job: NewJob) -> str:
    """The payload as JSON text. Raises PayloadError."""
    try:
        return _encode(dict(job.payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"The payload of a {job.task!r} job is not JSON: {error}.") from None


_encode = json.JSONEncoder(allow_nan=False).encode
