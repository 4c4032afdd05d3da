"""Tasks of an app that sends its spans and metrics to the file TEST_SPANS, one a line, only when it is told to."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.lowlevel
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from pushq import Cancel, Job, Retry, Tasks, current_job
from pushq.contrib.otel import instrument

AN_HOUR = 3_600_000


def write(line: str) -> None:
    with Path(os.environ["TEST_SPANS"]).open("a") as spans:
        spans.write(f"{line}\n")


class Spans(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        time.sleep(float(os.environ.get("TEST_SLOW_COLLECTOR", "0")))
        for span in spans:
            write(span.to_json(indent=None))
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


class Metrics(MetricExporter):
    def export(self, metrics_data: MetricsData, *_: object, **__: object) -> MetricExportResult:
        write(metrics_data.to_json(indent=None))
        return MetricExportResult.SUCCESS

    def force_flush(self, *_: object) -> bool:
        return True

    def shutdown(self, *_: object, **__: object) -> None: ...


provider = TracerProvider(shutdown_on_exit="TEST_SHUTDOWN" in os.environ)
provider.add_span_processor(BatchSpanProcessor(Spans(), schedule_delay_millis=AN_HOUR))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(
    MeterProvider([PeriodicExportingMetricReader(Metrics(), export_interval_millis=AN_HOUR)], shutdown_on_exit=False)
)
instrument(errors="full" if os.environ.get("TEST_FULL") else "brief")

tasks = Tasks()
tracer = trace.get_tracer("app")


if os.environ.get("TEST_MIDDLEWARE"):

    @tasks.middleware
    async def around(_: Job) -> AsyncIterator[None]:
        with tracer.start_as_current_span("middleware"):
            yield


def here() -> str:
    return f"{trace.get_current_span().get_span_context().span_id:016x}"


@tasks.register("child")
async def child() -> str:
    current_job().logger.warning("handled")
    with tracer.start_as_current_span("child"):
        await anyio.lowlevel.checkpoint()
        return here()


@tasks.register("child.thread")
def child_in_thread() -> str:
    with tracer.start_as_current_span("child"):
        return here()


@tasks.register("again", backoff=lambda _: timedelta(0))
async def again() -> None:
    if current_job().attempt == 1:
        raise ValueError("the password is 1234")


@tasks.register("fail", max_attempts=1)
def fail() -> None:
    raise ValueError("the password is 1234")


@tasks.register("slow", max_attempts=1, timeout=timedelta(seconds=0.1))
async def slow() -> None:
    await anyio.sleep(3600)


@tasks.register("later")
async def later() -> None:
    if current_job().attempt == 1:
        raise Retry(timedelta(0))


@tasks.register("cancel")
async def cancel() -> None:
    raise Cancel("not needed")


@tasks.register("batch", batch=100, max_attempts=1)
async def batch(jobs: list[Job]) -> list[object]:
    with tracer.start_as_current_span("child"):
        return [ValueError("no") if job.correlation_id else here() for job in jobs]


@tasks.register("batch.thread", batch=100)
def batch_in_thread(jobs: list[Job]) -> list[str]:
    with tracer.start_as_current_span("child"):
        return [here() for _ in jobs]
