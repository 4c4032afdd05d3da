"""What an attempt came to, and what that does to its job: decided here, written by the finisher."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from pushq.backoff import Backoff, exponential
from pushq.errors import PayloadError, ResultError
from pushq.job import Job

LONGEST_DELAY = timedelta(days=365)
LONGEST_ERROR = 10_000
LARGEST_RESULT = 1024 * 1024


class Retry(Exception):
    """Raise it in a handler to run the job again `after` a while. It spends no attempt."""

    def __init__(self, after: timedelta = timedelta(0)) -> None:
        if not timedelta(0) <= after <= LONGEST_DELAY:
            raise ValueError(f"Retry(after={after}): a delay is between 0 and a year.")
        super().__init__(f"again after {after}")
        self.after = after


class Cancel(Exception):
    """Raise it in a handler to end the job as cancelled, for a `reason` that is kept as its error."""

    def __init__(self, reason: str = "cancelled by its handler") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Returned:
    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    error: BaseException


@dataclass(frozen=True, slots=True)
class TimedOut:
    after: timedelta


@dataclass(frozen=True, slots=True)
class Stopped:
    """The pool cancelled the attempt at the deadline of its shutdown."""


Ending = Returned | Raised | TimedOut | Stopped
"""How a handler's call ended."""


class Kind(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"  # queued again, a failure spent
    SNOOZED = "snoozed"  # queued again because the handler asked for it
    RELEASED = "released"  # queued again because the pool stops


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is written for an attempt. `result` is JSON text; `error_type` is what a log may show of the error."""

    job: Job
    kind: Kind
    delay: timedelta = timedelta(0)
    error: str | None = None
    result: str | None = None
    error_type: str | None = None
    seconds: float = 0.0


def decide(job: Job, ending: Ending, *, max_attempts: int, backoff: Backoff) -> Outcome:
    """The outcome of an attempt at `job`; its own max_attempts wins over the task's."""
    match ending:
        case Returned(value):
            return _returned(job, value)
        case Raised(Retry() as retry):
            return Outcome(job, Kind.SNOOZED, delay=retry.after)
        case Raised(Cancel() as cancel):
            return Outcome(job, Kind.CANCELLED, error=storable_text(str(cancel.reason)), error_type="Cancel")
        case Raised(PayloadError() as error):
            return _failed(job, error)
        case Raised(error):
            return _failed_or_retried(job, error, job.max_attempts or max_attempts, backoff)
        case TimedOut(after):
            error = TimeoutError(f"the attempt took longer than {after.total_seconds():g} s")
            return _failed_or_retried(job, error, job.max_attempts or max_attempts, backoff)
        case Stopped():
            return Outcome(job, Kind.RELEASED)


def _returned(job: Job, value: object) -> Outcome:
    try:
        return Outcome(job, Kind.SUCCEEDED, result=storable_result(value))
    except ResultError as error:
        return _failed(job, error)


def _failed(job: Job, error: BaseException) -> Outcome:
    return Outcome(job, Kind.FAILED, error=describe_error(error), error_type=type(error).__name__)


def _failed_or_retried(job: Job, error: BaseException, max_attempts: int, backoff: Backoff) -> Outcome:
    failures = job.failures + 1
    if failures >= max_attempts:
        return _failed(job, error)
    delay, remark = _delay(backoff, failures)
    text = describe_error(error) + remark
    return Outcome(job, Kind.RETRIED, delay=delay, error=text, error_type=type(error).__name__)


def _delay(backoff: Backoff, failures: int) -> tuple[timedelta, str]:
    """The task's own delay, or the default one and a remark when its backoff does not work."""
    try:
        delay = backoff(failures)
        if timedelta(0) <= delay <= LONGEST_DELAY:
            return delay, ""
        complaint = f"returned {delay}"
    except Exception as error:  # noqa: BLE001 - a backoff is the user's code
        complaint = f"raised {type(error).__name__}"
    return exponential()(failures), f"\n(The task's backoff {complaint}; the default one was used.)"


def describe_error(error: BaseException) -> str:
    """An exception as its type and message, and a line for each that a group holds; always storable."""
    lines = [_line(error)]
    if isinstance(error, BaseExceptionGroup):
        lines += [f"  {_line(one)}" for one in error.exceptions[:20]]
    return storable_text("\n".join(lines))


def _line(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in ("builtins", "pushq.errors")
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a handler's own class may do anything
        message = f"(its message cannot be shown: {type(broken).__name__})"
    return f"{name}: {message}" if message else name


def storable_text(text: str) -> str:
    """Text that PostgreSQL takes: without NUL and lone surrogates, and not longer than 10,000 characters."""
    if len(text) > LONGEST_ERROR:
        text = text[:LONGEST_ERROR] + "… (cut)"
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


# \u0000 with an even number of backslashes before it: an escaped NUL, not the text of one.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def storable_result(value: object) -> str | None:
    """What a handler returned, as JSON text for jsonb; None for None.

    Beside JSON's own types it takes what has an obvious form: dataclasses, pydantic models, datetimes, UUIDs, enums.
    Raises ResultError for what cannot be stored: NaN, text with NUL or a lone surrogate, other objects, over 1 MiB.
    """
    if value is None:
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_jsonable)
        size = len(text.encode())
    except Exception as error:  # the value's own methods may raise anything
        raise ResultError(f"the work is done, but its result cannot be stored: {_line(error)}") from error
    if _ESCAPED_NUL.search(text):
        raise ResultError("the work is done, but its result cannot be stored: it holds a NUL character")
    if size > LARGEST_RESULT:
        raise ResultError(f"the work is done, but its result cannot be stored: {size:,} bytes is over 1 MiB")
    return text


def _jsonable(value: object) -> Any:
    """One step for a value that json does not know; json goes on with what comes out, and refuses NaN in it."""
    try:
        return to_jsonable_python(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        raise TypeError(f"{type(value).__name__} is not JSON") from None
