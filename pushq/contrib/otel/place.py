"""A traceparent ↔ OpenTelemetry's span context: https://www.w3.org/TR/trace-context/#traceparent-header."""

from __future__ import annotations

from opentelemetry.trace import SpanContext, TraceFlags, format_span_id, format_trace_id

_LENGTH = 55
"""Characters of version 00. Later versions begin alike, and may go on."""


_KNOWN_FLAGS = 0b11
"""Sampled, and: the trace id is random."""


def traceparent_of(place: SpanContext) -> str | None:
    """None: no trace goes on here, as without an SDK."""
    if not place.is_valid:
        return None
    return f"00-{format_trace_id(place.trace_id)}-{format_span_id(place.span_id)}-{place.trace_flags:02x}"


def place_of(traceparent: str | None) -> SpanContext | None:
    """The span that a traceparent names. None: there is none, or the text is no traceparent.

    The database has checked the text. OpenTelemetry's own parser would take three times as long.
    """
    if traceparent is None or len(traceparent) < _LENGTH:
        return None
    try:
        trace_id, span_id, flags = int(traceparent[3:35], 16), int(traceparent[36:52], 16), int(traceparent[53:55], 16)
    except ValueError:
        return None
    place = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & _KNOWN_FLAGS))
    return place if place.is_valid else None
