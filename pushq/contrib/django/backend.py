"""Enqueues Django's tasks as jobs, and reads their results from the jobs' rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.core.checks import Error
from django.db import connections
from django.utils import timezone

from pushq.contrib.django.api import (
    BaseTaskBackend,
    InvalidTaskBackend,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_enqueued,
)
from pushq.contrib.django.discover import find_task
from pushq.contrib.django.results import result_of
from pushq.database.statements import statement
from pushq.job import NewJob
from pushq.producers.inserts import insert_of
from pushq.producers.percents import in_percents
from pushq.queue import columns_of
from pushq.spans import inserting

# now() is what the row gets, and takes no right to read the row.
_OPTIONS = ("database", "max_attempts", "timeout")


class PushqBackend(BaseTaskBackend):
    """A backend for settings.TASKS.

    OPTIONS: `database`, an alias of settings.DATABASES (`default`); `max_attempts`, failures until a task is failed
    (1); `timeout`, a timedelta that limits each attempt (none). Raises InvalidTaskBackend for any other option.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        for option in self.options:
            if option not in _OPTIONS:
                raise InvalidTaskBackend(
                    f"TASKS[{alias!r}]: pushq has no option {option!r}; there are {', '.join(_OPTIONS)}."
                )
        self.database: str = self.options.get("database", "default")
        self.max_attempts: int = self.options.get("max_attempts", 1)
        self.timeout: timedelta | None = self.options.get("timeout")

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Inserts a job on Django's connection, in its transaction if any.

        Raises TypeError for arguments that are no JSON, and InvalidTask for a task that this backend cannot run.
        """
        self.validate_task(task)
        job = NewJob(
            task.module_path,
            normalize_json({"args": args, "kwargs": kwargs}),
            queue=task.queue_name,
            priority=-task.priority,  # Django's larger numbers run first
            run_at=_aware(task.run_after),
        )
        result = _enqueued(task, *self._insert(job), job, self.alias)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """The result as the job's row has it. Raises TaskResultDoesNotExist."""
        row = self._row(result_id)
        task = find_task(row["task"])
        if not task:
            raise TaskResultDoesNotExist(f"{result_id}: no task {row['task']!r} is imported here")
        return result_of(row, task, self.alias)

    def check(self, **kwargs: Any) -> list[Any]:
        database = connections[self.database]
        if database.vendor == "postgresql" and database.Database.__name__ == "psycopg":
            return [*super().check(**kwargs)]
        return [
            Error(
                f"TASKS[{self.alias!r}]: the database {self.database!r} is not by psycopg 3.",
                hint="Choose a database with the engine django.db.backends.postgresql, and install psycopg 3.",
                id="pushq.E001",
            )
        ]

    def _insert(self, job: NewJob) -> tuple[UUID, datetime]:
        """The job's id, and its enqueued_at."""
        with inserting("enqueue", [job], None) as traceparent, connections[self.database].cursor() as cursor:
            name, values = insert_of(columns_of([job], traceparent=traceparent))
            text = f"with inserted as (\n{statement(name)}\n) select id, now() from inserted"  # noqa: S608
            cursor.execute(in_percents(text), values)
            job_id, enqueued_at = cursor.fetchone()
            return job_id, enqueued_at

    def _row(self, result_id: str) -> dict[str, Any]:
        try:
            job_id = UUID(result_id)
        except ValueError:
            raise TaskResultDoesNotExist(result_id) from None
        with connections[self.database].cursor() as cursor:
            cursor.execute(in_percents(statement("find_job")), [job_id])
            row = cursor.fetchone()
            if not row:
                raise TaskResultDoesNotExist(result_id)
            return dict(zip([column.name for column in cursor.description], row, strict=True))


def _aware(instant: datetime | None) -> datetime | None:
    """Without USE_TZ, Django's instants are in the project's time zone."""
    return timezone.make_aware(instant) if instant and timezone.is_naive(instant) else instant


def _enqueued(task: Any, job_id: UUID, enqueued_at: datetime, job: NewJob, backend: str) -> Any:
    return TaskResult(
        task=task,
        id=str(job_id),
        status=TaskResultStatus.READY,
        enqueued_at=enqueued_at,
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=job.payload["args"],
        kwargs=job.payload["kwargs"],
        backend=backend,
        errors=[],
        worker_ids=[],
    )
