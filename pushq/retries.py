"""Which errors of a handler are tried again, and when at the earliest."""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pushq.backoff import Backoff
from pushq.storable import guarded

Classes = tuple[type[BaseException], ...]


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


def _inside(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    yield from vars(BaseExceptionGroup)["exceptions"].__get__(group)


def retry_after(error: BaseException) -> timedelta | None:
    """The delay that an answer of HTTP asks for by Retry-After, in seconds or as a date: RFC 9110, 10.2.3.

    Found in `error.response.headers`, as of httpx, requests and aiohttp, or in `error.headers`, as of urllib.
    """
    return guarded(lambda: _asked(error), lambda _: None)


def _asked(error: BaseException) -> timedelta | None:
    answer = getattr(error, "response", None)
    headers = getattr(error if answer is None else answer, "headers", None)
    text = None if headers is None else headers.get("Retry-After")
    if not isinstance(text, str):
        return None
    if text.isascii() and text.isdigit():
        return timedelta(seconds=int(text))
    instant = email.utils.parsedate_to_datetime(text)
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - datetime.now(UTC)
