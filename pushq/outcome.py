"""The outcome of an attempt, and its effect on the job: decided here, written by the finisher.

`decide` raises nothing, whatever a handler's value or exception does when looked at (`storable.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from pushq.backoff import Backoff, exponential
from pushq.errors import PayloadError, ResultError
from pushq.job import Job
from pushq.progress import Unwritten
from pushq.retries import Retries, retry_after
from pushq.storable import (
    LONGEST_ERROR,
    describe_error,
    guarded,
    leaves_of,
    name_of,
    short_name_of,
    storable_result,
    storable_text,
    text_of,
)
from pushq.trace import trace, traceback_of

LONGEST_DELAY = timedelta(days=365)


class Retry(Exception):
    """Raise Retry in a handler to run the job again after a delay. Counts as no failure.

    after: the delay. None: the task's backoff, for as many failures as the job has attempts. Raises ValueError for a
    delay that is not between 0 and a year.
    """

    after: timedelta | None = None  # for a subclass that does not call __init__

    def __init__(self, after: timedelta | None = None) -> None:
        if after is not None and _delay_or_none(after) is None:
            raise ValueError(f"Retry(after={after!r}): a delay is a timedelta between 0 and a year.")
        super().__init__("again after the task's backoff" if after is None else f"again after {after}")
        self.after = after


class Cancel(Exception):
    """Raise Cancel in a handler to end the job as cancelled.

    reason: stored as the job's error.
    """

    reason = "cancelled by its handler"

    def __init__(self, reason: str = reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Detach:
    """Return Detach from a handler to leave the job to somebody outside, who ends it by `pushq.finish`.

    The job stays running under its token, without a worker. lease: after so long without `pushq.extend` or
    `pushq.finish`, the job runs again, charged a crash. Raises ValueError for a lease that is not over 0 and at most a
    year.
    """

    lease: timedelta

    def __post_init__(self) -> None:
        if not (lease := _delay_or_none(self.lease)):
            raise ValueError(f"Detach(lease={self.lease!r}): a lease is a timedelta over 0 and at most a year.")
        object.__setattr__(self, "lease", lease)


@dataclass(frozen=True, slots=True)
class Returned:
    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    error: BaseException


@dataclass(frozen=True, slots=True)
class TimedOut:
    """at: the exception that stopped the handler, or that the handler raised too late. Shows where the handler was."""

    after: timedelta
    at: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The pool cancelled the attempt at the deadline of its shutdown."""


Ending = Returned | Raised | TimedOut | Stopped
"""How a handler's call ended."""


def endings_of_batch(returned: object, size: int) -> list[Returned | Raised]:
    """How each job of a batch ended, by what the handler returned: a list with an item for each, or None.

    An exception in the list counts as raised for its job. Any other value fails every job of the batch.
    """
    if returned is None:
        return [Returned(None)] * size
    if type(returned) not in (list, tuple):  # isinstance() would run code of the value's class
        wrong = f"a {short_name_of(returned)}"
    elif len(items := list(returned)) != size:  # type: ignore[call-overload]
        wrong = f"{len(items):,} items"
    else:
        return [Raised(one) if issubclass(type(one), BaseException) else Returned(one) for one in items]
    return [Raised(TypeError(f"the handler returned {wrong} for {size:,} jobs; return an item for each"))] * size


class Kind(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"  # queued again, with one more failure
    SNOOZED = "snoozed"  # queued again, because the handler raised Retry
    RELEASED = "released"  # queued again, because the pool stops, or had claimed too many jobs
    DETACHED = "detached"  # goes on without a worker, because the handler returned Detach


ENDS = (Kind.SUCCEEDED, Kind.FAILED, Kind.CANCELLED)
"""Kinds that finish a job. After other kinds the job is queued again, or was detached."""


@dataclass(slots=True)
class Outcome:
    """The result of an attempt, as written to the table.

    delay: seconds; of DETACHED, the lease. result: JSON text. error_type and place (FILE:LINE): the parts of an error
    that a log may show. began, ended: seconds of time.monotonic(); 0: now. progress: told by the handler, and not
    written yet. is_written: whether the outcome is settled already, as in the handler's own transaction.
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
    progress: Unwritten | None = None
    is_written: bool = False

    @property
    def is_unbegun(self) -> bool:
        """Whether there was no thread to call the handler."""
        return self.error_type is not None and self.kind is Kind.RELEASED

    @property
    def size(self) -> int:
        """Characters of error, traceback and result."""
        if self.error or self.result:
            return len(self.error or "") + len(self.traceback or "") + len(self.result or "")
        return 0


def released(job: Job) -> Outcome:
    """The outcome of a job that is given back: due again, at no charge."""
    return Outcome(job, Kind.RELEASED)


def unbegun(job: Job) -> Outcome:
    """The outcome of a job for which there was no thread: given back as well, and told to the worker."""
    return Outcome(job, Kind.RELEASED, error_type="NoThread")


BY_HAND = "CancelledByHand"


def cancelled_by_hand(job: Job, began: float = 0.0, ended: float = 0.0) -> Outcome:
    """The outcome of a job that was cancelled by hand, whatever its handler did. The row has usually ended before."""
    told = "cancelled by hand"
    return Outcome(job, Kind.CANCELLED, error=told, error_type=BY_HAND, began=began, ended=ended)


def decide(job: Job, ending: Ending, retries: Retries) -> Outcome:
    """The outcome of an attempt, by the task's rules. The job's own max_attempts wins. Raises nothing."""
    try:  # not by `guarded`, which costs a call a job
        return _decided(job, ending, retries)
    except BaseException as broken:  # noqa: BLE001 - the handler's exception may raise when looked at
        name = short_name_of(broken)
        return Outcome(job, Kind.FAILED, error=f"The handler's exception cannot be inspected: {name}", error_type=name)


def _decided(job: Job, ending: Ending, retries: Retries) -> Outcome:
    if isinstance(ending, Returned):
        return _returned(job, ending.value)
    match ending:
        case Raised(error):
            return _raised(job, meant_by(error), retries)
        case TimedOut(after, at):
            error = TimeoutError(f"the attempt took longer than {after.total_seconds():g} s")
            error = error.with_traceback(None if at is None else traceback_of(at))
            return _failed_or_retried(job, error, retries)
        case Stopped():
            return released(job)


def _raised(job: Job, error: BaseException, retries: Retries) -> Outcome:
    match error:
        case Retry() if (delay := _snooze(job, error.after, retries.backoff)) is not None:
            return Outcome(job, Kind.SNOOZED, delay.total_seconds())
        case Cancel():
            return Outcome(job, Kind.CANCELLED, error=storable_text(text_of(error.reason)), error_type="Cancel")
        case PayloadError():
            return failed(job, error)
        case _:
            return _failed_or_retried(job, error, retries)


def meant_by(error: BaseException) -> BaseException:
    """The Retry or Cancel that a group stands for, as asyncio.TaskGroup raises one; else the error itself.

    A group stands for one if there is nothing but these inside: for a Cancel if there is one, else for the Retry with
    the longest `after`.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    retries, cancels = list[Retry](), list[Cancel]()
    for leaf in leaves_of(error):
        if isinstance(leaf, Cancel):
            cancels.append(leaf)
        elif isinstance(leaf, Retry):
            retries.append(leaf)
        else:
            return error
    return cancels[0] if cancels else max(retries, key=lambda retry: _delay_or_none(retry.after) or timedelta(0))


def _snooze(job: Job, after: object, backoff: Backoff) -> timedelta | None:
    return _delay(backoff, max(1, job.attempt))[0] if after is None else _delay_or_none(after)


_UNRUN = (CoroutineType, GeneratorType, AsyncGeneratorType)


def _returned(job: Job, value: object) -> Outcome:
    if value is None:
        return Outcome(job, Kind.SUCCEEDED)
    if type(value) is Detach:
        return Outcome(job, Kind.DETACHED, value.lease.total_seconds())
    if type(value) in _UNRUN:  # isinstance() would run code of the value's class
        kind = type(value).__name__
        return failed(job, TypeError(f"the handler returned a {kind}, which nobody awaits; return its result"))
    try:
        return Outcome(job, Kind.SUCCEEDED, result=storable_result(value))
    except ResultError as error:
        return failed(job, error)


def failed(job: Job, error: BaseException) -> Outcome:
    """The outcome of a job that is not tried again."""
    return _traced(Outcome(job, Kind.FAILED, error=describe_error(error), error_type=short_name_of(error)), error)


def _traced(outcome: Outcome, error: BaseException) -> Outcome:
    if found := trace(error):
        outcome.traceback, outcome.place = storable_text(found.text, len(found.text)), storable_text(found.place)
    return outcome


def _failed_or_retried(job: Job, error: BaseException, retries: Retries) -> Outcome:
    failures = job.failures + 1
    if failures >= (job.max_attempts or retries.max_attempts) or retries.are_over(error):
        return failed(job, error)
    delay, remark = _delay(retries.backoff, failures)
    delay = max(delay, _delay_or_none(retry_after(error)) or delay)
    text = describe_error(error, LONGEST_ERROR - len(remark)) + remark
    outcome = Outcome(job, Kind.RETRIED, delay.total_seconds(), error=text, error_type=short_name_of(error))
    return _traced(outcome, error)


def _delay(backoff: Backoff, failures: int) -> tuple[timedelta, str]:
    """The task's own delay; or the default delay and a remark, if the task's backoff does not work."""
    delay, complaint = guarded(lambda: _judged(backoff(failures)), lambda error: (None, f"raised {name_of(error)}"))
    if delay is not None:
        return delay, ""
    return exponential()(failures), f"\n(The task's backoff {storable_text(complaint, 200)}; the default one was used.)"


def _judged(returned: object) -> tuple[timedelta | None, str]:
    """The delay that a backoff returned, or None; and what is wrong with any other value."""
    return _delay_or_none(returned), f"returned {text_of(returned)}, no timedelta between 0 and a year"


def _delay_or_none(delay: object) -> timedelta | None:
    if not isinstance(delay, timedelta):
        return None
    plain = timedelta.__add__(timedelta(0), delay)  # a subclass may have comparisons of its own
    return plain if timedelta(0) <= plain <= LONGEST_DELAY else None
