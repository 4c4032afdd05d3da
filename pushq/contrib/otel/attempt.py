"""The span of an attempt: current while the handler runs, and ended with the outcomes of the jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from opentelemetry.context import attach
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from pushq.contrib.otel.faults import unless_it_raises
from pushq.outcome import Kind, Outcome

_FAILURES = (Kind.FAILED, Kind.RETRIED)


class NoSpan:
    """In place of a span that could not be made."""

    def enter(self) -> None: ...

    def end(self, outcomes: Sequence[Outcome]) -> None: ...


class AttemptSpan:
    """tells_all: whether the span tells messages and tracebacks of errors."""

    __slots__ = ("_span", "_tells_all")

    def __init__(self, span: Span, *, tells_all: bool) -> None:
        self._span = span
        self._tells_all = tells_all

    def enter(self) -> None:
        attach(set_span_in_context(self._span))

    def end(self, outcomes: Sequence[Outcome]) -> None:
        unless_it_raises(lambda: self._end(outcomes))

    def _end(self, outcomes: Sequence[Outcome]) -> None:
        if self._span.is_recording():
            self._tell(outcomes)
        self._span.end()

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        """Of a batch, the span has the number of each outcome, and the first error."""
        if len(outcomes) == 1:
            self._span.set_attribute("pushq.outcome", _kind(outcomes[0]))
        else:
            kinds = Counter(map(_kind, outcomes))
            self._span.set_attributes({f"pushq.outcomes.{kind}": number for kind, number in kinds.items()})
        for outcome in outcomes:
            if outcome.error_type and outcome.kind in _FAILURES:
                self.tell_error(outcome.error_type, outcome.error, outcome.traceback, outcome.place)
                return

    def tell_error(
        self, kind: str, message: str | None, traceback: str | None = None, place: str | None = None
    ) -> None:
        told = {"exception.type": kind, "pushq.place": place}
        if self._tells_all:
            told |= {"exception.message": message, "exception.stacktrace": traceback}
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, (self._tells_all and message) or kind))
        self._span.add_event("exception", {name: value for name, value in told.items() if value is not None})


def _kind(outcome: Outcome) -> str:
    return Kind.CANCELLED.value if outcome.job.cancelled else outcome.kind.value
