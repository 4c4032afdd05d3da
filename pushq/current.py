"""The job whose handler is running in this task or thread."""

from __future__ import annotations

from contextvars import ContextVar

from pushq.errors import PushqError
from pushq.job import Job

_running: ContextVar[Job] = ContextVar("pushq_job")


def current_job() -> Job:
    """The job whose handler is running in this task or thread.

    Raises PushqError outside of a handler, and in a handler of batches, which has its jobs as an argument.
    """
    try:
        return _running.get()
    except LookupError:
        raise PushqError("current_job() is for handlers of one job: no job is running here.") from None


set_current_job = _running.set
"""Sets the job that a worker is about to run."""


def job_here() -> Job | None:
    """The current job, or None outside of a handler, and in a handler of batches."""
    return _running.get(None)
