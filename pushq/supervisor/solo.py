"""How many solo pools may run side by side: each runs jobs that have killed two processes, one at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

SLOW_AFTER = 10.0
"""Seconds after which a solo pool no longer keeps the next from being started: its job may hang, for ever."""
MOST_SLOW = 8
"""Solo pools beyond --processes, at most, however many jobs hang: each is a process."""


def vacancies(ages: Sequence[float], processes: int) -> int:
    """How many more may be started. ages: for how many seconds each has run."""
    fresh = sum(age < SLOW_AFTER for age in ages)
    return max(0, min(processes - fresh, processes + MOST_SLOW - len(ages)))


def until_slow(ages: Sequence[float]) -> float:
    """Seconds until one of them is slow, and another may be started."""
    return min((SLOW_AFTER - age for age in ages if age < SLOW_AFTER), default=math.inf)
