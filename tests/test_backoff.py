"""Failures so far → how long to wait."""

from __future__ import annotations

from datetime import timedelta

import pytest

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


@pytest.mark.parametrize(
    "arguments",
    [{"first": timedelta(0)}, {"longest": timedelta(seconds=1)}, {"factor": 0.5}, {"jitter": 1.5}],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="A backoff needs"):
        exponential(**arguments)  # type: ignore[arg-type]
