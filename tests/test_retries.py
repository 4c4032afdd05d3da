from __future__ import annotations

import email.message
import email.utils
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from uuid import UUID

import pytest

from pushq import Cancel, Retry, Tasks
from pushq.errors import PayloadError, TasksError
from pushq.job import Job
from pushq.outcome import Kind, Outcome, Raised, TimedOut, decide
from pushq.retries import Retries, retry_after
from pushq.task import Errors

JOB = Job(UUID(int=1), "mail", "default", "{}", 1, 0, 0, None, None, None, None, UUID(int=2))


def kind_of(error: BaseException, retry_on: Errors = (), fail_on: Errors = ()) -> Kind:
    tasks = Tasks()
    tasks.register("a", retry_on=retry_on or None, fail_on=fail_on)(lambda: None)
    return decide(JOB, Raised(error), tasks.find("a").retries).kind


def refusal(**headers: str) -> HTTPError:
    told = email.message.Message()
    for name, value in headers.items():
        told[name.replace("_", "-")] = value
    return HTTPError("http://model", 429, "too many", told, None)


class Refused(Exception):
    """As httpx's and requests' errors."""

    def __init__(self, headers: Any) -> None:
        self.response = SimpleNamespace(headers=headers)


@pytest.mark.parametrize(
    ("error", "retry_on", "fail_on", "kind"),
    [
        (ValueError(), (), (), Kind.RETRIED),
        (ConnectionResetError(), ConnectionError, (), Kind.RETRIED),
        (ValueError(), ConnectionError, (), Kind.FAILED),
        (ValueError(), (), ValueError, Kind.FAILED),
        (UnicodeError(), (), [ValueError], Kind.FAILED),
        (KeyError(), (), ValueError, Kind.RETRIED),
        (refusal(), OSError, HTTPError, Kind.FAILED),
        (ConnectionResetError(), OSError, HTTPError, Kind.RETRIED),
        (ConnectionResetError(), ConnectionResetError, OSError, Kind.RETRIED),
        (OSError(), ConnectionResetError, OSError, Kind.FAILED),
        (ExceptionGroup("both", [ConnectionError(), OSError()]), OSError, (), Kind.RETRIED),
        (ExceptionGroup("both", [ConnectionError(), ValueError()]), OSError, (), Kind.FAILED),
        (ExceptionGroup("in", [ExceptionGroup("it", [ValueError()])]), (), ValueError, Kind.FAILED),
        (ExceptionGroup("both", [ValueError()]), ExceptionGroup, ValueError, Kind.RETRIED),
        (SystemExit(), (), SystemExit, Kind.FAILED),
    ],
)
def test_the_nearest_class_of_the_lists_decides(
    error: BaseException, retry_on: Errors, fail_on: Errors, kind: Kind
) -> None:
    assert kind_of(error, retry_on, fail_on) is kind


def test_of_two_bases_the_first_in_the_mro_decides() -> None:
    class Both(ConnectionError, ValueError): ...

    assert kind_of(Both(), ConnectionError, ValueError) is Kind.RETRIED
    assert kind_of(Both(), ValueError, ConnectionError) is Kind.FAILED


def test_a_timeout_is_a_timeouterror() -> None:
    ending = TimedOut(timedelta(seconds=1))
    rules = Retries(5, lambda _: timedelta(0), (ConnectionError,), ())
    assert decide(JOB, ending, rules).kind is Kind.FAILED
    assert decide(JOB, ending, Retries(5, lambda _: timedelta(0), (TimeoutError,), ())).kind is Kind.RETRIED


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"retry_on": "ConnectionError"},
            "retry_on takes classes of errors, as in retry_on=(ConnectionError,), not",
        ),
        (
            {"fail_on": (ValueError, 5)},
            "fail_on takes classes of errors, as in fail_on=(ConnectionError,), not 5.",
        ),
        ({"fail_on": (ValueError())}, "not ValueError()."),
        ({"fail_on": ValueError, "retry_on": [ValueError]}, "ValueError is both in retry_on and in fail_on."),
        ({"autoretry_for": ValueError}, "did you mean retry_on?"),
        ({"retry_on": ()}, "retry_on names no class of errors; to retry none, give max_attempts=1; to retry all, "),
        ({"retry_on": []}, "retry_on names no class of errors"),
        ({"retry_on": Retry}, "a Retry says itself what becomes of its job; leave it out of retry_on."),
        ({"fail_on": (ValueError, type("No", (Retry,), {}))}, "a No says itself what becomes of its job"),
        ({"fail_on": Cancel}, "a Cancel says itself what becomes of its job; leave it out of fail_on."),
        ({"retry_on": GeneratorExit}, "no handler fails by a GeneratorExit; leave it out of retry_on."),
        ({"retry_on": PayloadError}, "a PayloadError fails its job at once; leave it out of retry_on."),
    ],
)
def test_what_cannot_be_a_list_of_errors_is_refused_in_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TasksError) as raised:
        Tasks().register("a", **options)
    assert said in str(raised.value)


def outcome_of(error: BaseException, backoff: timedelta = timedelta(seconds=10)) -> Outcome:
    return decide(JOB, Raised(error), Retries(5, lambda _: backoff))


@pytest.mark.parametrize(
    "error",
    [refusal(Retry_After="120"), Refused({"Retry-After": "120"})],
)
def test_retry_after_in_seconds_is_heeded_and_never_shortens_the_backoff(error: Exception) -> None:
    assert outcome_of(error).delay == 120
    assert outcome_of(error, timedelta(hours=1)).delay == 3600


def test_retry_after_as_a_date_is_heeded() -> None:
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 <= outcome_of(Refused({"Retry-After": later})).delay <= 90


YEAR = 365 * 24 * 3600


@pytest.mark.parametrize(
    "asked",
    ["31536001", "9" * 400, "9" * 9000, 31536001, "Wed, 21 Oct 2099 07:28:00 GMT", "Wed, 21 Oct 2099 07:28:00"],
)
def test_an_answer_that_asks_for_more_than_a_year_is_heeded_for_a_year(asked: object) -> None:
    assert outcome_of(Refused({"Retry-After": asked})).delay == YEAR


def test_an_int_and_a_date_without_a_zone_are_heeded() -> None:
    assert outcome_of(Refused({"Retry-After": 120})).delay == 120
    later = (datetime.now(UTC) + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S")
    assert 80 <= outcome_of(Refused({"Retry-After": later})).delay <= 90


def behind(cause: BaseException) -> Exception:
    try:
        raise ValueError("the model is busy") from cause
    except ValueError as error:
        return error


def test_an_answer_inside_of_a_group_or_behind_another_error_is_heeded_and_the_longest_delay_counts() -> None:
    answer = refusal(Retry_After="120")
    both = ExceptionGroup("both", [Hostile(), Refused({"Retry-After": "60"}), ExceptionGroup("in", [behind(answer)])])

    assert outcome_of(behind(behind(answer))).delay == 120
    assert outcome_of(both).delay == 120


def test_an_error_that_is_its_own_cause_is_looked_at_all_the_same() -> None:
    error = Refused({"Retry-After": "120"})
    error.__cause__ = error
    assert outcome_of(error).delay == 120


class Hostile(Exception):
    @property
    def response(self) -> Any:
        raise SystemExit(3)


@pytest.mark.parametrize(
    "error",
    [
        Refused({"Retry-After": "soon"}),
        Refused({"Retry-After": "-5"}),
        Refused({"Retry-After": -5}),
        Refused({"Retry-After": True}),
        Refused({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Refused({"Retry-After": b"5"}),
        Refused({}),
        Refused(None),
        Refused(5),
        Hostile(),
        ValueError("no answer at all"),
    ],
)
def test_an_answer_that_makes_no_sense_leaves_the_backoff(error: Exception) -> None:
    assert outcome_of(error).delay == 10


def test_nothing_is_asked_of_an_error_that_is_final() -> None:
    assert retry_after(Refused({"Retry-After": "120"})) == timedelta(seconds=120)
    assert decide(JOB, Raised(Refused({"Retry-After": "120"})), Retries(1, lambda _: timedelta(0))).delay == 0
