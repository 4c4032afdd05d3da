"""What an attempt came to, and what that does to its job: decided here, written by the finisher.

What handlers return and raise is theirs, and may do anything when it is looked at: none of it gets out of `decide`,
which would end the pool.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from pushq.backoff import Backoff, exponential
from pushq.errors import PayloadError, ResultError
from pushq.job import Job
from pushq.trace import trace

LONGEST_DELAY = timedelta(days=365)
LONGEST_ERROR = 10_000
LARGEST_RESULT = 1024 * 1024


class Retry(Exception):
    """Raise it in a handler to run the job again `after` a while. It spends no attempt.

    Raises ValueError for a delay that is not between 0 and a year.
    """

    after = timedelta(0)  # for a subclass that does not call __init__

    def __init__(self, after: timedelta = timedelta(0)) -> None:
        if _delay_or_none(after) is None:
            raise ValueError(f"Retry(after={after!r}): a delay is a timedelta between 0 and a year.")
        super().__init__(f"again after {after}")
        self.after = after


class Cancel(Exception):
    """Raise it in a handler to end the job as cancelled, for a `reason` that is kept as its error."""

    reason = "cancelled by its handler"

    def __init__(self, reason: str = reason) -> None:
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
    """at: what it was stopped by, or raised after its time, which tells where it was."""

    after: timedelta
    at: BaseException | None = None


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
    RELEASED = "released"  # queued again because the pool stops, or was slower than it thought


@dataclass(slots=True)
class Outcome:
    """What is written for an attempt.

    delay in seconds; result is JSON text; error_type and place (FILE:LINE) are what a log may show of the error; began
    and ended by the clock of time.monotonic(), 0: now.
    """

    job: Job
    kind: Kind
    delay: float = 0.0
    error: str | None = None
    result: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    place: str | None = None
    began: float = 0.0
    ended: float = 0.0

    @property
    def text(self) -> int:
        """Characters of its error, traceback and result."""
        if self.error or self.result:
            return len(self.error or "") + len(self.traceback or "") + len(self.result or "")
        return 0


def released(job: Job) -> Outcome:
    """For a job that is given back: it is due again, at no charge."""
    return Outcome(job, Kind.RELEASED)


def decide(job: Job, ending: Ending, *, max_attempts: int, backoff: Backoff) -> Outcome:
    """The outcome of an attempt at `job`; its own max_attempts wins over the task's. Raises nothing."""
    try:
        return _decided(job, ending, job.max_attempts or max_attempts, backoff)
    except BaseException as broken:  # noqa: BLE001 - an exception of the handler that breaks when it is looked at
        name = _short_name(broken)
        return Outcome(job, Kind.FAILED, error=f"What the handler raised cannot be looked at: {name}", error_type=name)


def _decided(job: Job, ending: Ending, most: int, backoff: Backoff) -> Outcome:
    if isinstance(ending, Returned):
        return _returned(job, ending.value)
    match ending:
        case Raised(Retry() as retry) if (delay := _delay_or_none(retry.after)) is not None:
            return Outcome(job, Kind.SNOOZED, delay.total_seconds())
        case Raised(Cancel() as cancel):
            return Outcome(job, Kind.CANCELLED, error=storable_text(_text(cancel.reason)), error_type="Cancel")
        case Raised(PayloadError() as error):
            return _failed(job, error)
        case Raised(error):
            return _failed_or_retried(job, error, most, backoff)
        case TimedOut(after, at):
            error = TimeoutError(f"the attempt took longer than {after.total_seconds():g} s")
            error = error.with_traceback(at.__traceback__ if at else None)
            return _failed_or_retried(job, error, most, backoff)
        case Stopped():
            return released(job)


_UNDONE = (CoroutineType, GeneratorType, AsyncGeneratorType)


def _returned(job: Job, value: object) -> Outcome:
    if value is None:
        return Outcome(job, Kind.SUCCEEDED)
    if type(value) in _UNDONE:  # isinstance would look at its class, which may do anything
        kind = type(value).__name__
        return _failed(job, TypeError(f"the handler returned a {kind}, which nothing runs; return what comes of it"))
    try:
        return Outcome(job, Kind.SUCCEEDED, result=storable_result(value))
    except ResultError as error:
        return _failed(job, error)


def _failed(job: Job, error: BaseException) -> Outcome:
    return _traced(Outcome(job, Kind.FAILED, error=describe_error(error), error_type=_short_name(error)), error)


def _traced(outcome: Outcome, error: BaseException) -> Outcome:
    if found := trace(error):
        outcome.traceback, outcome.place = storable_text(found.text, len(found.text)), storable_text(found.place)
    return outcome


def _failed_or_retried(job: Job, error: BaseException, max_attempts: int, backoff: Backoff) -> Outcome:
    failures = job.failures + 1
    if failures >= max_attempts:
        return _failed(job, error)
    delay, remark = _delay(backoff, failures)
    text = describe_error(error, LONGEST_ERROR - len(remark)) + remark
    outcome = Outcome(job, Kind.RETRIED, delay.total_seconds(), error=text, error_type=_short_name(error))
    return _traced(outcome, error)


def _delay(backoff: Backoff, failures: int) -> tuple[timedelta, str]:
    """The task's own delay, or the default one and a remark when its backoff does not work."""
    try:
        returned = backoff(failures)
        delay = _delay_or_none(returned)
        complaint = f"returned {_text(returned)}, no timedelta between 0 and a year"
    except BaseException as error:  # noqa: BLE001 - a backoff is the user's code
        delay, complaint = None, f"raised {_name(error)}"
    if delay is not None:
        return delay, ""
    return exponential()(failures), f"\n(The task's backoff {storable_text(complaint, 200)}; the default one was used.)"


def _delay_or_none(delay: object) -> timedelta | None:
    if not isinstance(delay, timedelta):
        return None
    plain = timedelta.__add__(timedelta(0), delay)  # a subclass may compare as it likes
    return plain if timedelta(0) <= plain <= LONGEST_DELAY else None


def describe_error(error: BaseException, longest: int = LONGEST_ERROR) -> str:
    """An exception as its type and message; of a group also the first line of what it holds. Always storable."""
    lines = [_line(error)]
    if isinstance(error, BaseExceptionGroup):
        lines += ["  " + _line(leaf).partition("\n")[0] for leaf in islice(_leaves(error), 20)]
    return storable_text("\n".join(lines), longest)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group and in its groups, without recursion, however deep."""
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting += reversed(vars(BaseExceptionGroup)["exceptions"].__get__(one))
        else:
            yield one


def _line(error: BaseException) -> str:
    """Without what a database adds to its message, which shows rows: "DETAIL:  Failing row contains (…)"."""
    message = _text(error).partition("\nDETAIL:")[0]
    return f"{_name(error)}: {message}" if message else _name(error)


def _text(value: object) -> str:
    """str(value), whatever its class does about it."""
    try:
        return str.__str__(str(value))  # a plain str, where __str__ returned a subclass
    except BaseException as broken:  # noqa: BLE001 - SystemExit too: it would end the pool
        return f"(its message cannot be shown: {_name(broken)})"


def _name(error: BaseException) -> str:
    kind = type(error)
    try:
        module, name = str.__str__(kind.__module__), str.__str__(kind.__qualname__)
    except BaseException:  # noqa: BLE001 - a metaclass is the user's code
        return "Exception"
    return name if module in ("builtins", "pushq.errors") else f"{module}.{name}"


def _short_name(error: BaseException) -> str:
    return storable_text(_name(error).rpartition(".")[2], 200)


_CUT = "… (cut)"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable_text(text: str, longest: int = LONGEST_ERROR) -> str:
    """Text that PostgreSQL takes: without NUL and lone surrogates, and not longer than so many characters."""
    if len(text) > longest:
        text = text[: longest - len(_CUT)] + _CUT
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def storable_result(value: object) -> str | None:
    """What a handler returned, as JSON text for jsonb; None for None.

    Beside JSON's own types it takes what has an obvious form: dataclasses, pydantic models, datetimes, UUIDs, enums,
    decimals (as text, to the last digit). Raises ResultError for what cannot be stored: NaN, text with NUL or a lone
    surrogate, cycles, other objects, over 1 MiB.
    """
    if value is None:
        return None
    try:
        text = json_text(value)
        size = len(text.encode())
        if size > LARGEST_RESULT:
            raise ValueError(f"{size:,} bytes is over 1 MiB")
    except BaseException as error:  # the value's own methods may raise anything
        raise ResultError(f"the work is done, but its result cannot be stored: {_line(error)}") from error
    return text


def json_text(value: object) -> str:
    """JSON text that jsonb takes. Raises ValueError, TypeError or RecursionError, or what the value itself raises."""
    text = _encoder.encode(value)
    text.encode()  # refuses lone surrogates
    refuse_nul(text)
    return text


# \u0000 with an even number of backslashes before it: an escaped NUL, not the text of one.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def refuse_nul(text: str) -> None:
    """Raises ValueError for JSON text that holds a NUL, which jsonb does not take."""
    if "\\u0000" in text and _ESCAPED_NUL.search(text):  # to look for it first is ten times as fast
        raise ValueError("text with a NUL character")


def _jsonable(value: object) -> Any:
    """One step for a value that json does not know; json goes on with what comes out, and refuses NaN in it."""
    if inspect.isgenerator(value):  # it may never end
        raise TypeError("generator is not JSON")
    try:
        return to_jsonable_python(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        raise TypeError(f"{type(value).__name__} is not JSON") from None


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_jsonable)
"""Made once: json.dumps makes one for each call that asks for anything but its defaults."""
