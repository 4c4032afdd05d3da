"""pushq: your PostgreSQL table is the queue, an INSERT from any language is the API."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pushq.current import current_job
    from pushq.job import Job, NewJob
    from pushq.lifespan import Resource, injected
    from pushq.outcome import Cancel, Detach, Retry
    from pushq.queue import Enqueued, Queue
    from pushq.reading import Artifact
    from pushq.task import Task, Tasks

__all__ = [
    "Artifact",
    "Cancel",
    "Detach",
    "Enqueued",
    "Job",
    "NewJob",
    "Queue",
    "Resource",
    "Retry",
    "Task",
    "Tasks",
    "current_job",
    "injected",
]
__version__ = "0.1.0"

_HOMES = {
    "Artifact": "reading",
    "Cancel": "outcome",
    "Detach": "outcome",
    "Enqueued": "queue",
    "Job": "job",
    "NewJob": "job",
    "Queue": "queue",
    "Resource": "lifespan",
    "Retry": "outcome",
    "Task": "task",
    "Tasks": "task",
    "current_job": "current",
    "injected": "lifespan",
}


def __getattr__(name: str) -> object:
    """Imports a public name at its first use. The commands, which import this module as well, use none of the names."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pushq' has no attribute {name!r}")
    return getattr(import_module(f"pushq.{_HOMES[name]}"), name)
