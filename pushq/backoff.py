"""Failures so far → delay before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta

Backoff = Callable[[int], timedelta]
"""From the number of failures so far (1: the first) to a delay."""


def exponential(
    first: timedelta = timedelta(seconds=2),
    *,
    factor: float = 2.0,
    longest: timedelta = timedelta(hours=1),
    jitter: float = 0.5,
    draw: Callable[[], float] = random.random,
) -> Backoff:
    """A delay that grows by `factor` from `first` to `longest`.

    first: the delay after the first failure. factor: at least 1. longest: the limit of the delay. jitter: the share of
    a delay that is random, 0 to 1. draw: returns a random number between 0 and 1, for tests.

    Without jitter, jobs that failed together would come back together. The method is the "equal jitter" of the AWS
    Architecture Blog, "Exponential Backoff And Jitter" (2015). Raises ValueError for arguments out of range.
    """
    if first <= timedelta(0) or longest < first:
        raise ValueError(f"A backoff needs 0 < first <= longest, not first={first}, longest={longest}.")
    if not factor >= 1 or not 0 <= jitter <= 1:  # NaN is not >= 1
        raise ValueError(f"A backoff needs factor >= 1 and 0 <= jitter <= 1, not {factor} and {jitter}.")

    def delay(failures: int) -> timedelta:
        return _grown(first, factor, longest, failures) * (1 - jitter * draw())

    return delay


def _grown(first: timedelta, factor: float, longest: timedelta, failures: int) -> timedelta:
    try:  # float: a power of an int would grow digit by digit instead of overflowing
        return min(longest, first * float(factor) ** (max(failures, 1) - 1))
    except OverflowError:
        return longest
