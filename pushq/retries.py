"""Which errors of a handler are tried again, and when at the earliest."""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from pushq.backoff import Backoff
from pushq.storable import guarded

Classes = tuple[type[BaseException], ...]

LONGEST_ASKED = timedelta(days=365)
"""The longest delay that an answer may ask for. A longer one counts as this."""
MOST_LOOKED_AT = 100
"""Errors that are looked at for a Retry-After: inside of groups, and behind `raise … from`."""


@dataclass(frozen=True, slots=True)
class Retries:
    """A task's rules. max_attempts: failures after which a job is failed. backoff: failures so far → delay.

    retry_on, fail_on: classes of errors. Without both, every error is tried again.
    """

    max_attempts: int
    backoff: Backoff
    retry_on: Classes = ()
    fail_on: Classes = ()

    def are_over(self, error: BaseException) -> bool:
        """Whether the error fails the job at once.

        The error's class that is nearest in its MRO decides, among those that are listed. An error that is not listed
        is final if there is a list of errors to retry. A group that is not listed is final if any error inside is.
        """
        if not self.retry_on and not self.fail_on:
            return False
        for kind in type(error).__mro__:
            if _lists(self.fail_on, kind):
                return True
            if _lists(self.retry_on, kind):
                return False
        if isinstance(error, BaseExceptionGroup):
            return any(self.are_over(one) for one in _inside(error))
        return bool(self.retry_on)


def _lists(classes: Classes, kind: type) -> bool:
    return any(kind is one for one in classes)  # `in` would run code of a metaclass


def _inside(group: BaseException) -> Iterator[BaseException]:
    yield from vars(BaseExceptionGroup)["exceptions"].__get__(group)


def retry_after(error: BaseException) -> timedelta | None:
    """The delay that an answer of HTTP asks for by Retry-After: RFC 9110, 10.2.3. At most a year.

    Found in `error.response.headers`, as of httpx, requests and aiohttp, or in `error.headers`, as of urllib; also of
    the errors inside of a group, and of those behind `raise … from`. Of several answers, the longest delay counts.
    """
    looked_at = islice(_connected(error), MOST_LOOKED_AT)
    asked = [guarded(partial(_asked, one), lambda _: None) for one in looked_at]
    return max((delay for delay in asked if delay is not None), default=None)


def _connected(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, and the exceptions inside, without recursion. Runs no code of theirs."""
    waiting = [error]
    while waiting:
        yield (one := waiting.pop())
        if issubclass(type(one), BaseExceptionGroup):
            waiting += _inside(one)
        cause = vars(BaseException)["__cause__"].__get__(one)
        if cause is not None:
            waiting.append(cause)


def _asked(error: BaseException) -> timedelta | None:
    answer = getattr(error, "response", None)
    headers = getattr(error if answer is None else answer, "headers", None)
    told = None if headers is None else headers.get("Retry-After")
    if type(told) is int:
        return _seconds(str(told))
    if not isinstance(told, str):
        return None
    return _seconds(told) if told.isascii() and told.isdigit() else _time_until(told)


def _seconds(digits: str) -> timedelta | None:
    if not digits.isdigit():
        return None
    longest = int(LONGEST_ASKED.total_seconds())
    return timedelta(seconds=longest if len(digits.lstrip("0")) > len(str(longest)) else min(longest, int(digits)))


def _time_until(date: str) -> timedelta:
    """A date without a zone is one of UTC."""
    instant = email.utils.parsedate_to_datetime(date)
    return min(LONGEST_ASKED, (instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - datetime.now(UTC))
