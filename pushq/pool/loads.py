"""Loads of claimed jobs. A load is what a worker takes at once: a job, or a batch for a handler that takes batches.

Under a backlog, a claim brings a job for each free worker. A second claim, of the same task alone, then brings as many
jobs as those workers' batches have room for. So batches are full at once, and no job is claimed that nobody begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from pushq.batch import LARGEST_BATCH
from pushq.job import Job
from pushq.task import Task

Load: TypeAlias = Job | list[Job]

MOST_LARGE = 16
"""Jobs in a batch, at most, whose payloads are too large to come with the claim. All payloads are in memory at once."""


class Loads:
    def __init__(self, tasks: Iterable[Task[..., object]]) -> None:
        self._sizes = {task.name: task.batch for task in tasks if task.batch}

    def wanted(self, jobs: Sequence[Job]) -> dict[str, int]:
        """How many more jobs there is room for, by task, if a worker takes a batch for each of these jobs."""
        if not self._sizes:
            return {}
        counts, rooms = Counter[str](), Counter[str]()
        for job in jobs:
            if size := self._size(job):
                counts[job.task] += 1
                rooms[job.task] += size
        wanted = {task: min(room, LARGEST_BATCH) - counts[task] for task, room in rooms.items()}
        return {task: more for task, more in wanted.items() if more > 0}

    def of(self, jobs: Sequence[Job]) -> Sequence[Load]:
        """The jobs as loads, each in the place of its first job."""
        if not self._sizes:
            return jobs
        loads = list[Load]()
        open_batches = dict[tuple[str, int, str | None], list[Job]]()
        for job in jobs:
            size = self._size(job)
            if size is None:
                loads.append(job)
                continue
            kind = job.task, size, job.affinity if job.extras else None
            batch = open_batches.get(kind)
            if batch is None or len(batch) >= size:
                batch = open_batches[kind] = []
                loads.append(batch)
            batch.append(job)
        return loads

    def _size(self, job: Job) -> int | None:
        """How many jobs a batch with this job holds, at most. None: the handler takes one job."""
        size = self._sizes.get(job.task)
        return min(size, MOST_LARGE) if size and job.payload is None else size
