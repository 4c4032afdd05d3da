"""What an attempt came to, and what that does to its job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

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
)
from pushq.retries import Retries
from pushq.storable import storable_result, storable_text

JOB = Job(uuid4(), "mail", "default", "{}", 1, 0, 0, None, None, None, None, uuid4())
MINUTE = timedelta(minutes=1)


def decided(ending: Ending, job: Job = JOB, backoff: Backoff = lambda _: MINUTE) -> Outcome:
    return decide(job, ending, Retries(3, backoff))


def test_a_returned_value_is_stored_as_json() -> None:
    assert decided(Returned({"a": 1})) == Outcome(JOB, Kind.SUCCEEDED, result='{"a": 1}')
    assert decided(Returned(None)).result is None


def test_an_error_is_retried_until_the_last_attempt_fails() -> None:
    first = decided(Raised(ValueError("no")))
    last = decided(Raised(ValueError("no")), JOB._replace(failures=2))

    assert (first.kind, first.delay, first.error) == (Kind.RETRIED, MINUTE.total_seconds(), "ValueError: no")
    assert (last.kind, last.error) == (Kind.FAILED, "ValueError: no")


def test_a_job_s_own_max_attempts_wins() -> None:
    assert decided(Raised(ValueError()), JOB._replace(max_attempts=1)).kind is Kind.FAILED
    assert decided(Raised(ValueError()), JOB._replace(max_attempts=9, failures=7)).kind is Kind.RETRIED


def test_retry_cancel_and_stop_spend_no_attempt() -> None:
    exhausted = JOB._replace(failures=99)

    assert decided(Raised(Retry(after=MINUTE)), exhausted) == Outcome(
        exhausted, Kind.SNOOZED, delay=MINUTE.total_seconds()
    )
    assert decided(Raised(Cancel("why")), exhausted).kind is Kind.CANCELLED
    assert decided(Stopped(), exhausted).kind is Kind.RELEASED


def grouped(*errors: Exception) -> Ending:
    return Raised(ExceptionGroup("unhandled errors in a TaskGroup", errors))


def test_a_group_of_retries_and_cancels_is_one_of_them() -> None:
    hour = timedelta(hours=1)
    inner = ExceptionGroup("inside", [Retry(hour), Retry(MINUTE)])

    assert decided(grouped(Retry(MINUTE))) == Outcome(JOB, Kind.SNOOZED, delay=MINUTE.total_seconds())
    assert decided(grouped(Retry(), Retry())).delay == MINUTE.total_seconds()
    assert decided(grouped(Retry(MINUTE), inner)).delay == hour.total_seconds()
    assert decided(grouped(inner, Cancel("why"), Cancel("too"))) == decided(Raised(Cancel("why")))


def test_a_group_with_another_error_inside_is_an_error() -> None:
    assert decided(grouped(Retry(MINUTE), ValueError("no"))).kind is Kind.RETRIED
    assert decided(grouped(Cancel("why"), ExceptionGroup("inside", [ValueError("no")]))).kind is Kind.RETRIED


def test_a_timeout_counts_as_a_failure() -> None:
    assert decided(TimedOut(MINUTE)).kind is Kind.RETRIED
    assert decided(TimedOut(MINUTE)).error == "TimeoutError: the attempt took longer than 60 s"


def test_a_payload_that_does_not_fit_fails_at_once() -> None:
    assert decided(Raised(PayloadError("user_id"))).kind is Kind.FAILED


def _raises(_: int) -> timedelta:
    raise ZeroDivisionError


def _exits(_: int) -> timedelta:
    raise SystemExit("\x00" * 1000)


class Agreeable:
    """Is between any two things."""

    def __ge__(self, _: object) -> bool:
        return True

    __le__ = __ge__

    def __str__(self) -> str:
        return "\x00" * 1000


@pytest.mark.parametrize(
    "backoff",
    [_raises, _exits, lambda _: timedelta(-1), lambda _: timedelta(9999), lambda _: 3, lambda _: Agreeable()],
)
def test_a_backoff_that_does_not_work_is_replaced_and_named(backoff: Backoff) -> None:
    outcome = decided(Raised(ValueError("no")), backoff=backoff)

    assert outcome.kind is Kind.RETRIED
    assert 0 < outcome.delay < MINUTE.total_seconds()
    assert "The task's backoff" in (outcome.error or "")
    assert "\x00" not in (outcome.error or "")


def test_the_remark_on_a_backoff_survives_a_long_error() -> None:
    error = decided(Raised(ValueError("x" * 20_000)), backoff=_raises).error or ""

    assert error.endswith("(The task's backoff raised ZeroDivisionError; the default one was used.)")
    assert "… (cut)" in error
    assert len(error) == 10_000


class Unsayable(Exception):
    def __str__(self) -> str:
        raise SystemExit


class Text(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise SystemExit

    __format__ = __len__  # type: ignore[assignment]


class Subtle(Exception):
    def __str__(self) -> str:
        return Text("subtle")


class NamelessType(type):
    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise SystemExit


class Nameless(Exception, metaclass=NamelessType):
    pass


class Faceless(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise SystemExit


class Closed(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> tuple[Any, ...]:
        raise SystemExit


class Unreadable(Retry):
    @property
    def after(self) -> timedelta:  # type: ignore[override]
        raise SystemExit

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (Unsayable, "its message cannot be shown: SystemExit"),
        (Subtle, "Subtle: subtle"),
        (lambda: Nameless("n"), "Exception: n"),
        (Faceless, "cannot be inspected: SystemExit"),
        (lambda: Closed("closed", [ValueError("inside")]), "ValueError: inside"),
        (Unreadable, "cannot be inspected: SystemExit"),
        (lambda: Cancel(Unsayable()), "its message cannot be shown"),  # type: ignore[arg-type]
    ],
    ids=["message", "message of str's own kind", "type's name", "class", "group", "delay", "reason"],
)
def test_an_error_that_breaks_when_it_is_looked_at_is_an_error_all_the_same(
    error: Callable[[], Exception], shown: str
) -> None:  # made here, since pytest looks at what it is given
    assert shown in (decided(Raised(error())).error or "")


def test_retry_and_cancel_may_have_subclasses_that_forget_their_parent() -> None:
    class Later(Retry):
        def __init__(self) -> None:
            pass

    class Enough(Cancel):
        def __init__(self) -> None:
            pass

    assert decided(Raised(Later())).kind is Kind.SNOOZED
    assert decided(Raised(Enough())).error == "cancelled by its handler"


def test_a_retry_without_a_delay_takes_the_task_s_backoff_by_its_attempts() -> None:
    """Else a bare `raise Retry` would run again and again, as fast as a pool can."""
    for attempt, seconds in ((1, 60.0), (3, 180.0)):
        rules = Retries(1, lambda n: timedelta(minutes=n))
        outcome = decide(JOB._replace(attempt=attempt), Raised(Retry()), rules)
        assert (outcome.kind, outcome.delay) == (Kind.SNOOZED, seconds)
    assert decided(Raised(Retry(timedelta(0)))) == Outcome(JOB, Kind.SNOOZED)


def test_a_retry_with_a_delay_that_is_none_is_a_failure() -> None:
    retry = Retry()
    retry.after = timedelta(-1)

    assert decided(Raised(retry)).kind is Kind.RETRIED


def test_a_group_shows_what_it_holds() -> None:
    error = decided(Raised(ExceptionGroup("two", [ValueError("a"), KeyError("b")]))).error

    assert error == "ExceptionGroup: two (2 sub-exceptions)\n  ValueError: a\n  KeyError: 'b'"


def test_a_group_shows_one_line_of_what_its_groups_hold_however_deep() -> None:
    error: Exception = ValueError("first\nsecond")
    for _ in range(5000):
        error = ExceptionGroup("in", [error])

    assert decided(Raised(error)).error == "ExceptionGroup: in (1 sub-exception)\n  ValueError: first"


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=50))
def test_any_text_can_be_made_storable(text: str) -> None:
    stored = storable_text(text)

    assert "\x00" not in stored
    assert stored.encode().decode() == stored


def test_what_cannot_be_stored_is_visibly_replaced_and_what_is_too_long_is_visibly_cut() -> None:
    assert storable_text("a\x00b\ud800c") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert storable_text("x" * 10_000) == "x" * 10_000
    assert storable_text("x" * 10_001) == "x" * 9_993 + "… (cut)"


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


class Untouchable:
    def __getattribute__(self, _: str) -> object:
        raise SystemExit


class Uncountable(dict[str, int]):
    def items(self) -> Any:
        raise SystemExit


class Reading(BaseModel):
    value: float


DEEP: list[object] = []
for _ in range(100_000):
    DEEP = [DEEP]


def without_end() -> Iterator[int]:
    while True:
        yield 1


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
        {float("nan"): 1},
        Reading(value=float("nan")),
        DEEP,
        b"\xff",
        without_end(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_stored_is_refused(value: object) -> None:
    with pytest.raises(ResultError, match=r"^the work is done, but its result cannot be stored: "):
        storable_result(value)


def test_a_result_that_cannot_be_stored_fails_the_job_at_once_and_says_that_the_work_is_done() -> None:
    for value in (Untouchable(), Uncountable(a=1)):
        outcome = decided(Returned(value))

        assert outcome.kind is Kind.FAILED
        assert outcome.error == "ResultError: the work is done, but its result cannot be stored: SystemExit"


def test_what_nobody_has_run_is_not_called_work_that_is_done() -> None:
    async def forgotten() -> None: ...

    coroutine = forgotten()
    for value, kind in ((coroutine, "coroutine"), ((n for n in range(3)), "generator")):
        outcome = decided(Returned(value))
        error = f"TypeError: the handler returned a {kind}, which nobody awaits; return its result"
        assert (outcome.kind, outcome.error) == (Kind.FAILED, error)
    coroutine.close()


def test_a_delay_out_of_range_is_refused() -> None:
    for after in (timedelta(days=-1), timedelta(days=366), 5):
        with pytest.raises(ValueError, match="between 0 and a year"):
            Retry(after=after)  # type: ignore[arg-type]
