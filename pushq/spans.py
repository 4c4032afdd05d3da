"""Spans around INSERTs and around attempts, if something in the process makes spans, as pushq.contrib.otel does.

The maker is module state, as the subscribers of events are: a process has one. Without a maker, nothing is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from pushq.job import Job
from pushq.outcome import Outcome


class Span(Protocol):
    """Of one attempt, at a job or at a batch."""

    def enter(self) -> None:
        """Makes the span the current one of this context, which nobody uses after the attempt."""

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """outcomes: of the attempt's jobs, as they are about to be written."""


class SpanMaker(Protocol):
    def around_insert(self, verb: str, jobs: object, queue: str | None) -> AbstractContextManager[str | None]:
        """A span around an INSERT. Yields the traceparent for jobs that have none of their own.

        verb: the method of Queue. jobs: what the method was given. queue: instead of the jobs' own.
        """

    def of_attempt(self, job: Job) -> Span:
        """Begins the span of an attempt at a job."""

    def of_batch(self, jobs: Sequence[Job]) -> Span:
        """Begins the span of an attempt at a batch."""

    def flush(self, seconds: float) -> bool:
        """Sends the spans that have ended, within this time. Waits. Returns whether the time was enough."""


_makers: list[SpanMaker] = []


def make_spans_by(maker: SpanMaker | None) -> None:
    """From now on, this maker makes the spans of the process. None: nobody does."""
    _makers[:] = [maker] if maker else []


def span_maker() -> SpanMaker | None:
    return _makers[0] if _makers else None


def inserting(verb: str, jobs: object, queue: str | None) -> AbstractContextManager[str | None]:
    """A span around an INSERT, if any. Yields the traceparent for jobs that have none of their own, or None."""
    return _makers[0].around_insert(verb, jobs, queue) if _makers else nullcontext()
