"""Makes the spans, by the tracer of the app's provider.

Names and attributes are those of OpenTelemetry's conventions for messaging, as far as these go:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/. But a span is named after its task: nearly all
jobs of an app may be in one queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from time import monotonic
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import get_meter_provider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanKind,
    Tracer,
    get_tracer,
    get_tracer_provider,
    set_span_in_context,
    use_span,
)

from pushq.contrib.otel.attempt import AttemptSpan, NoSpan
from pushq.contrib.otel.faults import unless_it_raises
from pushq.contrib.otel.place import place_of, traceparent_of
from pushq.job import Job, NewJob

_NOWHERE = Context()
"""Where no span is current: whatever the worker's own context holds, an attempt's trace begins with its job."""


class Maker:
    """tells_all: whether spans tell messages and tracebacks of errors. tracer: None for that of the app's provider."""

    def __init__(self, *, tells_all: bool, tracer: Tracer | None = None) -> None:
        self._tells_all = tells_all
        self._tracer = tracer or get_tracer("pushq", version("pushq-pg"))

    # Inserts --------------------------------------------------------------------------------------------------

    @contextmanager
    def around_insert(self, verb: str, jobs: object, queue: str | None) -> Iterator[str | None]:
        span = unless_it_raises(lambda: self._of_insert(verb, jobs, queue))
        if span is None:
            yield None
            return
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                yield traceparent_of(span.get_span_context())
        except Exception as error:
            AttemptSpan(span, tells_all=self._tells_all).tell_error(type(error).__name__, str(error))
            raise
        finally:
            unless_it_raises(span.end)

    def _of_insert(self, verb: str, jobs: object, queue: str | None) -> Span:
        """The span tells of jobs if all can be seen: a COPY may be of jobs that are still to be made."""
        known = [job for job in jobs if isinstance(job, NewJob)] if isinstance(jobs, list | tuple) else []
        tasks, queues = {job.task for job in known}, {queue or job.queue for job in known}
        attributes: dict[str, Any] = _SYSTEM | {"messaging.operation.name": verb, "messaging.operation.type": "send"}
        if len(tasks) == 1:
            attributes["pushq.task"] = known[0].task
        if len(queues) == 1:
            attributes["messaging.destination.name"] = queues.pop()
        if len(known) > 1:
            attributes["messaging.batch.message_count"] = len(known)
        name = f"{verb} {tasks.pop()}" if len(tasks) == 1 else verb
        return self._tracer.start_span(name, None, SpanKind.PRODUCER, attributes)

    # Attempts -------------------------------------------------------------------------------------------------

    def of_attempt(self, job: Job) -> AttemptSpan | NoSpan:
        span = unless_it_raises(lambda: self._begin(job))
        return NoSpan() if span is None else AttemptSpan(span, tells_all=self._tells_all)

    def of_batch(self, jobs: Sequence[Job]) -> AttemptSpan | NoSpan:
        span = unless_it_raises(lambda: self._begin_batch(jobs))
        return NoSpan() if span is None else AttemptSpan(span, tells_all=self._tells_all)

    def _begin(self, job: Job) -> Span:
        """Only the first attempt is a child: a trace should end, and a job may be tried again for days."""
        attributes = _PROCESS | {
            "messaging.destination.name": job.queue,
            "messaging.message.id": str(job.id),
            "pushq.task": job.task,
            "pushq.attempt": job.attempt,
        }
        if job.correlation_id is not None:
            attributes["messaging.message.conversation_id"] = job.correlation_id
        producer = place_of(job.traceparent)
        if producer and job.attempt == 1:
            around = set_span_in_context(NonRecordingSpan(producer), _NOWHERE)
            return self._tracer.start_span(f"process {job.task}", around, SpanKind.CONSUMER, attributes)
        return self._root(job.task, attributes, [Link(producer)] if producer else [])

    def _begin_batch(self, jobs: Sequence[Job]) -> Span:
        """Jobs of one INSERT have one producer, and one link."""
        attributes = _PROCESS | {"pushq.task": jobs[0].task, "messaging.batch.message_count": len(jobs)}
        if len(queues := {job.queue for job in jobs}) == 1:
            attributes["messaging.destination.name"] = queues.pop()
        producers = map(place_of, dict.fromkeys(job.traceparent for job in jobs))
        return self._root(jobs[0].task, attributes, [Link(producer) for producer in producers if producer])

    def _root(self, task: str, attributes: dict[str, Any], links: Sequence[Link]) -> Span:
        return self._tracer.start_span(f"process {task}", _NOWHERE, SpanKind.CONSUMER, attributes, links)

    # The end --------------------------------------------------------------------------------------------------

    def flush(self, seconds: float) -> bool:
        until, are_sent = monotonic() + seconds, True
        for provider in (get_tracer_provider(), get_meter_provider()):
            if flush := getattr(provider, "force_flush", None):  # the SDK's have it, the API's own have not
                left = max(0, until - monotonic())
                are_sent = unless_it_raises(partial(flush, int(1000 * left))) is not False and are_sent
        return are_sent


_SYSTEM: dict[str, Any] = {"messaging.system": "pushq"}
_PROCESS = _SYSTEM | {"messaging.operation.name": "process", "messaging.operation.type": "process"}
