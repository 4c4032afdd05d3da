"""What is around an attempt at a Django task: its result, Django's signals, and database connections that are alive."""

from __future__ import annotations

import os
import socket
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from concurrent import futures
from math import inf
from time import monotonic
from traceback import format_exception
from typing import Any

from django.db import close_old_connections
from django.utils import timezone

from pushq.contrib.django.api import (
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from pushq.contrib.django.backend import PushqBackend
from pushq.current import current_job
from pushq.errors import PayloadError
from pushq.outcome import Cancel, Retry, meant_by

CANCELLED = (CancelledError, futures.CancelledError)
_WORKER = f"{socket.gethostname()}-{os.getpid()}"


class Attempt:
    """One call of a task's function. Its methods may use the database, so an `async def` calls them in a thread.

    until: the instant of `time.monotonic()` at which the pool cancels the call, if the caller knows the instant.
    """

    def __init__(
        self, backend: PushqBackend, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, until: float = inf
    ) -> None:
        self._backend = backend
        self._job = job = current_job()
        self._limit = job.timeout or backend.timeout
        self._until = min(until, monotonic() + self._limit.total_seconds()) if self._limit else inf
        now = timezone.now()
        # The row would tell enqueued_at, but would have to be asked for: result.refresh() does.
        self._result = TaskResult(
            task=task,
            id=str(job.id),
            status=TaskResultStatus.RUNNING,
            enqueued_at=None,
            started_at=now,
            finished_at=None,
            last_attempted_at=now,
            args=list(args),
            kwargs=dict(kwargs),
            backend=backend.alias,
            errors=[],
            worker_ids=[_WORKER] * job.attempt,
        )
        self.arguments = [TaskContext(task_result=self._result), *args] if task.takes_context else args

    def begin(self) -> None:
        close_old_connections()
        task_started.send(type(self._backend), task_result=self._result)

    def succeed(self, returned: Any) -> Any:
        """What the function returned, as Django stores it. Raises TypeError for what is no JSON."""
        value = normalize_json(returned)
        if monotonic() >= self._until:
            self.fail(TimeoutError())
            return value
        self._set(status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)
        task_finished.send(type(self._backend), task_result=self._result)
        return value

    def fail(self, error: BaseException) -> None:
        """Tells Django of an error after which the task is not tried again."""
        error = self._in_time(error)
        if not self._is_final(error):
            return
        kind = type(error)
        path, trace = f"{kind.__module__}.{kind.__qualname__}", "".join(format_exception(error))
        self._result.errors.append(TaskError(exception_class_path=path, traceback=trace))
        self._set(status=TaskResultStatus.FAILED, finished_at=timezone.now())
        task_finished.send(type(self._backend), task_result=self._result)

    def end(self) -> None:
        close_old_connections()

    def _in_time(self, error: BaseException) -> BaseException:
        """The error that the row gets: a TimeoutError for what was raised when the time was over."""
        if monotonic() < self._until or isinstance(error, PayloadError) or not self._limit:
            return error
        late = TimeoutError(f"the attempt took longer than {self._limit.total_seconds():g} s")
        return late.with_traceback(error.__traceback__)

    def _is_final(self, error: BaseException) -> bool:
        """As `outcome.decide` will decide. A cancelled attempt is made again, since its pool stops."""
        if isinstance(error, CANCELLED):
            return False
        error = meant_by(error)
        if isinstance(error, Retry | Cancel | PayloadError):
            return not isinstance(error, Retry)
        return self._job.failures + 1 >= (self._job.max_attempts or self._backend.max_attempts)

    def _set(self, **changes: Any) -> None:
        for name, value in changes.items():
            object.__setattr__(self._result, name, value)  # the class is frozen, and its backends do so
