"""What an attempt came to, and what that does to its job."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from enum import Enum
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq import Cancel, Job, Retry
from pushq.backoff import Backoff
from pushq.errors import PayloadError, ResultError
from pushq.outcome import (
    Ending,
    Kind,
    Outcome,
    Raised,
    Returned,
    Stopped,
    TimedOut,
    decide,
    storable_result,
    storable_text,
)

JOB = Job(uuid4(), "mail", "default", "{}", 1, 0, 0, None, None, None, None, uuid4())
MINUTE = timedelta(minutes=1)


def decided(ending: Ending, job: Job = JOB, backoff: Backoff = lambda _: MINUTE) -> Outcome:
    return decide(job, ending, max_attempts=3, backoff=backoff)


def test_a_returned_value_is_stored_as_json() -> None:
    assert decided(Returned({"a": 1})) == Outcome(JOB, Kind.SUCCEEDED, result='{"a": 1}')
    assert decided(Returned(None)).result is None


def test_an_error_is_retried_until_the_last_attempt_fails() -> None:
    first = decided(Raised(ValueError("no")))
    last = decided(Raised(ValueError("no")), dataclasses.replace(JOB, failures=2))

    assert (first.kind, first.delay, first.error) == (Kind.RETRIED, MINUTE, "ValueError: no")
    assert (last.kind, last.error) == (Kind.FAILED, "ValueError: no")


def test_a_job_s_own_max_attempts_wins() -> None:
    assert decided(Raised(ValueError()), dataclasses.replace(JOB, max_attempts=1)).kind is Kind.FAILED
    assert decided(Raised(ValueError()), dataclasses.replace(JOB, max_attempts=9, failures=7)).kind is Kind.RETRIED


def test_retry_cancel_and_stop_spend_no_attempt() -> None:
    exhausted = dataclasses.replace(JOB, failures=99)

    assert decided(Raised(Retry(after=MINUTE)), exhausted) == Outcome(exhausted, Kind.SNOOZED, delay=MINUTE)
    assert decided(Raised(Cancel("why")), exhausted).kind is Kind.CANCELLED
    assert decided(Stopped(), exhausted).kind is Kind.RELEASED


def test_a_timeout_counts_as_a_failure() -> None:
    assert decided(TimedOut(MINUTE)).kind is Kind.RETRIED
    assert decided(TimedOut(MINUTE)).error == "TimeoutError: the attempt took longer than 60 s"


def test_a_payload_that_does_not_fit_fails_at_once() -> None:
    assert decided(Raised(PayloadError("user_id"))).kind is Kind.FAILED


def _raises(_: int) -> timedelta:
    raise ZeroDivisionError


@pytest.mark.parametrize("backoff", [_raises, lambda _: timedelta(-1), lambda _: timedelta(9999), lambda _: 3])
def test_a_backoff_that_does_not_work_is_replaced_and_named(backoff: Backoff) -> None:
    outcome = decided(Raised(ValueError("no")), backoff=backoff)

    assert outcome.kind is Kind.RETRIED
    assert timedelta(0) < outcome.delay < MINUTE
    assert "The task's backoff" in (outcome.error or "")


def test_an_error_whose_message_cannot_be_shown_is_an_error_all_the_same() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "its message cannot be shown: RuntimeError" in (decided(Raised(Hostile())).error or "")


def test_a_group_shows_what_it_holds() -> None:
    error = decided(Raised(ExceptionGroup("two", [ValueError("a"), KeyError("b")]))).error

    assert error == "ExceptionGroup: two (2 sub-exceptions)\n  ValueError: a\n  KeyError: 'b'"


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=50))
def test_any_text_can_be_made_storable(text: str) -> None:
    stored = storable_text(text)

    assert "\x00" not in stored
    assert stored.encode().decode() == stored


class Color(Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    when: datetime


def test_values_with_an_obvious_form_are_stored() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)

    assert storable_result(Point(1, when)) == '{"x": 1, "when": "2026-01-02T00:00:00Z"}'
    assert storable_result([UUID(int=0), Color.RED]) == '["00000000-0000-0000-0000-000000000000", "red"]'
    assert storable_result("the text of \\u0000") == '"the text of \\\\u0000"'


class Unrepresentable:
    def __repr__(self) -> str:
        raise RuntimeError


CIRCULAR: list[object] = []
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": [float("inf")]},
        {1, float("nan")},
        object(),
        Unrepresentable(),
        "a\x00b",
        "\\\x00",
        {"\x00": 1},
        "\ud800",
        CIRCULAR,
        10**5000,
        "x" * 1024 * 1024,
        {(1, 2): 3},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_stored_is_refused(value: object) -> None:
    with pytest.raises(ResultError, match=r"^the work is done, but its result cannot be stored: "):
        storable_result(value)


def test_a_delay_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and a year"):
        Retry(after=timedelta(days=-1))
