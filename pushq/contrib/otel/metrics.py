"""Counts attempts from the events that the log and the figures hear, by the meter of the app's provider.

Each pool counts its own attempts, so that all pools together count each once. Names are those of OpenTelemetry's
conventions for messaging: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from opentelemetry.metrics import get_meter

from pushq.contrib.otel.faults import unless_it_raises
from pushq.events import Event, JobsEnded
from pushq.outcome import Outcome

_BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)


class Metrics:
    """A subscriber. What was released before its attempt began is not counted."""

    def __init__(self) -> None:
        self._duration = get_meter("pushq", version("pushq-pg")).create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of attempts, whose outcomes are stored.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobsEnded):
            unless_it_raises(lambda: self._record(event.outcomes))

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if not outcome.began:
                continue
            attributes = {
                "messaging.system": "pushq",
                "messaging.operation.name": "process",
                "messaging.destination.name": outcome.job.queue,
                "pushq.task": outcome.job.task,
                "pushq.outcome": str(outcome.kind),
            }
            if outcome.error_type:
                attributes["error.type"] = outcome.error_type
            self._duration.record(outcome.ended - outcome.began, attributes)
