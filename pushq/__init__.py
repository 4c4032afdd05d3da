"""pushq: your PostgreSQL table is the queue, an INSERT from any language is the API."""

from pushq.job import Job, NewJob
from pushq.outcome import Cancel, Retry
from pushq.queue import Queue
from pushq.task import Task, Tasks, current_job

__all__ = ["Cancel", "Job", "NewJob", "Queue", "Retry", "Task", "Tasks", "current_job"]
__version__ = "0.1.0"
