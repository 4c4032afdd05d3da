"""Jobs that the database does not let be claimed, for a reason of their own: a trigger of somebody's that raises, say.

Claims pass them over, so that they hold up nobody. Each is tried again by itself, less and less often, and not so often
that all of them together, or one that takes long, keep a pool from its work.
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
"""Beyond so many claims no longer get past the next one: each of them has to read past all."""
SHARE = 20
"""How many times as long as a try has taken is waited for until the next."""
SPACING = 0.05
"""Seconds between two tries, on average, of however many."""

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

    def among(self, candidates: Iterable[UUID]) -> list[UUID]:
        """The others: those that are not passed over."""
        return [job_id for job_id in candidates if job_id not in self._jobs]

    def due(self, most: int) -> list[UUID]:
        """Those that are to be tried again now."""
        now = anyio.current_time()
        return [job_id for job_id, one in self._jobs.items() if one.due_at <= now][:most]

    @property
    def is_full(self) -> bool:
        return len(self._jobs) >= MOST

    def put(self, job_ids: Iterable[UUID], *, took: float) -> None:
        """They were tried, which took so many seconds for each."""
        for job_id in job_ids:
            one = self._jobs.get(job_id)
            if one is None and self.is_full:
                continue
            tries = one.tries + 1 if one else 1
            wait = max(retry_delay(tries).total_seconds(), SHARE * took, SPACING * len(self._jobs))
            self._jobs[job_id] = _Passed(tries, anyio.current_time() + wait)

    def forget(self, job_ids: Iterable[UUID]) -> None:
        """They were claimed, or are not there to be claimed any more."""
        for job_id in job_ids:
            self._jobs.pop(job_id, None)
