"""Jobs that cannot be claimed, each for a reason of its own: a user's trigger raises, say.

Claims pass over such jobs, and no other job is held up. Each job is tried again apart, less and less often. Tries are
spaced: neither many such jobs nor a slow try keep a pool from other work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from uuid import UUID

import anyio

from pushq.backoff import exponential

MOST = 1000
"""Jobs passed over, at most: each claim reads past all such jobs."""
SHARE = 20
"""Seconds until the next try of a job, at least, for each second of the last try."""
SPACING = 0.05
"""Seconds between two tries of any jobs, on average, at least."""

retry_delay = exponential(timedelta(seconds=1), longest=timedelta(seconds=60))


@dataclass(slots=True)
class _Passed:
    tries: int
    due_at: float


class PassedOver:
    def __init__(self) -> None:
        self._jobs: dict[UUID, _Passed] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def next_try_at(self) -> float:
        return min((one.due_at for one in self._jobs.values()), default=inf)

    def not_among(self, candidates: Iterable[UUID]) -> list[UUID]:
        """The candidates without the jobs passed over."""
        return [job_id for job_id in candidates if job_id not in self._jobs]

    def due(self, most: int) -> list[UUID]:
        """The jobs to try again now."""
        now = anyio.current_time()
        return [job_id for job_id, one in self._jobs.items() if one.due_at <= now][:most]

    @property
    def is_full(self) -> bool:
        return len(self._jobs) >= MOST

    def put(self, job_ids: Iterable[UUID], *, took: float) -> None:
        """Adds jobs after a claim in vain. took: seconds for each job."""
        for job_id in job_ids:
            one = self._jobs.get(job_id)
            if one is None and self.is_full:
                continue
            tries = one.tries + 1 if one else 1
            wait = max(retry_delay(tries).total_seconds(), SHARE * took, SPACING * len(self._jobs))
            self._jobs[job_id] = _Passed(tries, anyio.current_time() + wait)

    def forget(self, job_ids: Iterable[UUID]) -> None:
        """Drops jobs: claimed, or no longer queued."""
        for job_id in job_ids:
            self._jobs.pop(job_id, None)
