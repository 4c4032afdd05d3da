"""A job's row as Django's TaskResult."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from typing import Any

from pushq import errors
from pushq.contrib.django.api import TaskError, TaskResult, TaskResultStatus
from pushq.job import Status

_STATUSES = {
    Status.QUEUED: TaskResultStatus.READY,
    Status.RUNNING: TaskResultStatus.RUNNING,
    Status.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    Status.FAILED: TaskResultStatus.FAILED,
    Status.CANCELLED: TaskResultStatus.FAILED,
}


def result_of(row: Mapping[str, Any], task: Any, backend: str) -> Any:
    """row: of find_job.sql. errors: the last attempt's. worker_ids: the last supervisor's name, once an attempt."""
    payload = json.loads(row["payload"])
    result = TaskResult(
        task=task,
        id=str(row["id"]),
        status=_STATUSES[Status(row["status"])],
        enqueued_at=row["enqueued_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        last_attempted_at=row["started_at"],
        args=payload.get("args", []),
        kwargs=payload.get("kwargs", {}),
        backend=backend,
        errors=_errors(row),
        worker_ids=[row["supervisor"] or ""] * row["attempt"],
    )
    returned = row["result"] and json.loads(row["result"])
    object.__setattr__(result, "_return_value", returned)  # the class is frozen
    return result


def _errors(row: Mapping[str, Any]) -> list[Any]:
    if row["status"] == Status.CANCELLED:
        return [
            TaskError(exception_class_path="pushq.outcome.Cancel", traceback=row["traceback"] or row["error"] or "")
        ]
    if not row["error"]:
        return []
    return [TaskError(exception_class_path=_path(row["error"]), traceback=row["traceback"] or row["error"])]


def _path(error: str) -> str:
    """The dotted path of an exception, of which an error's text begins with `module.Name: `, or with `Name: `.

    The path of Exception, if no class has this name: a crash is an error of no class.
    """
    name = error.partition(":")[0]
    if "." in name and all(part.isidentifier() for part in name.split(".")):
        return name
    homes = [home for home in (builtins, errors) if hasattr(home, name)]
    return f"{homes[0].__name__}.{name}" if homes else "builtins.Exception"
