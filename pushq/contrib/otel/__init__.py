"""Spans and metrics by OpenTelemetry: of INSERTs and of attempts. They go where the app's own spans and metrics go."""

from __future__ import annotations

from typing import Literal

from pushq.contrib.otel.maker import Maker
from pushq.contrib.otel.metrics import Metrics
from pushq.events import subscribe_for_good
from pushq.spans import make_spans_by, span_maker

__all__ = ["instrument"]


def instrument(*, errors: Literal["brief", "full"] = "brief") -> None:
    """From now on, INSERTs and attempts of this process have spans, and attempts are counted.

    Call it where the app sets its TracerProvider: in the program that inserts, and in the module of the tasks. An
    INSERT is a span of kind PRODUCER, and gives the job its `traceparent`, unless the job has one. An attempt is a span
    of kind CONSUMER: the first is a child of the producer's span, each later one the root of a trace of its own, linked
    to the producer's span. A batch is one span, linked to the producers' spans. Providers may be set later.

    errors: what spans tell of an error. brief: its type and place. full: also its message and traceback, which may hold
    secrets. Raises ValueError for anything else. A second call changes `errors`.
    """
    if errors not in ("brief", "full"):
        raise ValueError(f"instrument(errors={errors!r}): there are 'brief' and 'full'.")
    if span_maker() is None:
        subscribe_for_good(Metrics())
    make_spans_by(Maker(tells_all=errors == "full"))
