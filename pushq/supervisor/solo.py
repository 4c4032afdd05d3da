"""How many solo pools may run side by side. A solo pool runs jobs that have killed two processes, one at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

SLOW_AFTER = 10.0
"""Seconds after which a solo pool is slow. A slow pool, whose job may hang for ever, no longer delays the next."""
MOST_SLOW = 8
"""Solo pools beyond --processes at most, however many jobs hang, since each pool is a process."""


def vacancies(ages: Sequence[float], processes: int) -> int:
    """How many more solo pools may be started. ages: seconds that each solo pool has run."""
    fresh = sum(age < SLOW_AFTER for age in ages)
    return max(0, min(processes - fresh, processes + MOST_SLOW - len(ages)))


def until_slow(ages: Sequence[float]) -> float:
    """Seconds until a solo pool becomes slow, and another may be started; inf: none will."""
    return min((SLOW_AFTER - age for age in ages if age < SLOW_AFTER), default=math.inf)
