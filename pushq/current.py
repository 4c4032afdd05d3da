"""The job whose handler is running here: in this task or thread."""

from __future__ import annotations

from contextvars import ContextVar

from pushq.errors import PushqError
from pushq.job import Job

_running: ContextVar[Job] = ContextVar("pushq_job")


def current_job() -> Job:
    """The job whose handler is running here. Raises PushqError outside of one."""
    try:
        return _running.get()
    except LookupError:
        raise PushqError("current_job() is for handlers: no job is running here.") from None


set_current_job = _running.set
"""Says which job a worker runs now."""


def job_here() -> Job | None:
    """The same; None outside of one."""
    return _running.get(None)
