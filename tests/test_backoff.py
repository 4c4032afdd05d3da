"""Failures so far → how long to wait."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.backoff import exponential


def test_the_delay_doubles_up_to_the_longest() -> None:
    delay = exponential(timedelta(seconds=2), longest=timedelta(seconds=10), jitter=0)

    assert [delay(failures).total_seconds() for failures in range(1, 6)] == [2, 4, 8, 10, 10]


def test_the_jitter_cuts_at_most_its_share() -> None:
    most, least = exponential(draw=lambda: 0.0), exponential(draw=lambda: 1.0)

    assert most(1) == timedelta(seconds=2)
    assert least(1) == timedelta(seconds=1)


def test_no_number_of_failures_is_too_large() -> None:
    assert exponential(jitter=0)(10**9) == timedelta(hours=1)
    assert exponential(jitter=0, factor=2)(10**18) == timedelta(hours=1)
    assert exponential(jitter=0, factor=1)(10**18) == timedelta(seconds=2)


@given(st.integers(), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_negative_and_never_longer_than_the_longest(
    failures: int, jitter: float, drawn: float
) -> None:
    delay = exponential(jitter=jitter, draw=lambda: drawn)(failures)

    assert timedelta(0) <= delay <= timedelta(hours=1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"first": timedelta(0)},
        {"longest": timedelta(seconds=1)},
        {"factor": 0.5},
        {"factor": math.nan},
        {"jitter": 1.5},
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="A backoff needs"):
        exponential(**arguments)  # type: ignore[arg-type]
