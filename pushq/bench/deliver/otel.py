"""What spans cost: the CPU of an attempt with a span, sampled or not, and without. There is no database."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING
from uuid import UUID

from anyio import to_thread

from pushq.bench.backend import turns
from pushq.bench.figures import Measure, at_least, no_more_than
from pushq.bench.run import Run
from pushq.job import Job
from pushq.pool.attempts import Attempts
from pushq.pool.loop import PoolLoop
from pushq.spans import SpanMaker, make_spans_by
from pushq.task import Tasks

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ATTEMPTS = 500
TURNS, TURNS_LONG = 12, 60
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ATTRIBUTES: dict[str, str | int] = {
    "messaging.system": "pushq",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.name": "default",
    "messaging.message.id": str(UUID(int=1)),
    "pushq.task": "bench.nothing",
    "pushq.attempt": 1,
}
PLAIN, OFF, UNSAMPLED, ON, BY_HAND = "plain", "off", "unsampled", "on", "by hand"

Spent = Mapping[str, float]
"""A side → seconds of CPU a job."""

tasks = Tasks()


@tasks.register("bench.nothing")
async def do_nothing() -> None: ...


async def measure_otel(run: Run) -> None:
    """Measures the sides in turn, many times a round."""
    if not find_spec("opentelemetry.sdk"):
        run.add_remark("deliver: opentelemetry-sdk is not installed, so spans were not measured.")
        return
    stage = "deliver, spans"
    if run.restore(stage):
        return
    async for _ in run.rounds(stage):
        _note(run, await to_thread.run_sync(_measured, turns(run, TURNS, TURNS_LONG)))


def _note(run: Run, spent: Spent) -> None:
    """pushq's own part is what a span costs more than one that the app makes by hand."""
    off = Measure("deliver", "spans, off", "jobs/CPU s", "off again", at_least(0.98))
    run.add(off, 1 / spent[OFF], 1 / spent[PLAIN])
    for name, side, without in (
        ("spans, not sampled: extra CPU a job", UNSAMPLED, 0.0),
        ("spans, sampled: extra CPU a job, pushq's own", ON, spent[BY_HAND]),
    ):
        measure = Measure("deliver", name, "us", "off", no_more_than(10))
        run.add(measure, 1e6 * (spent[side] - spent[OFF] - without), 1e6 * spent[OFF])
    whole = Measure("deliver", "spans, sampled: extra CPU a job, whole", "us", "by hand")
    run.add(whole, 1e6 * (spent[ON] - spent[OFF]), 1e6 * spent[BY_HAND])


def _measured(count: int) -> Spent:
    """The medians of `count` turns. Each turn begins with another side."""
    with _sides() as sides:
        for measure in sides.values():
            measure()
        seen: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for turn in range(count):
            for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
                seen[name].append(sides[name]())
    return {name: statistics.median(values) for name, values in seen.items()}


@contextmanager
def _sides() -> Iterator[Mapping[str, Callable[[], float]]]:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: PLC0415 - of the extra
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 - as above
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF  # noqa: PLC0415 - as above

    from pushq.contrib.otel.maker import Maker  # noqa: PLC0415 - as above

    class Nowhere(SpanExporter):
        def export(self, _: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None: ...

    sampling = TracerProvider(shutdown_on_exit=False)
    sampling.add_span_processor(BatchSpanProcessor(Nowhere()))
    unsampled = Maker(tells_all=False, tracer=TracerProvider(sampler=ALWAYS_OFF).get_tracer("bench"))
    tracer = sampling.get_tracer("bench")
    on = Maker(tells_all=False, tracer=tracer)
    try:
        yield {
            PLAIN: lambda: _attempts(None),
            OFF: lambda: _attempts(None),
            UNSAMPLED: lambda: _attempts(unsampled),
            ON: lambda: _attempts(on),
            BY_HAND: lambda: _by_hand(tracer),
        }
    finally:
        make_spans_by(None)
        sampling.shutdown()


def _attempts(maker: SpanMaker | None) -> float:
    """Seconds of CPU an attempt, on a pool's loop."""
    make_spans_by(maker)
    with asyncio.Runner(loop_factory=PoolLoop) as runner:
        return runner.run(_attempt_all())


async def _attempt_all() -> float:
    attempts, task = Attempts(_no_payload), tasks.find("bench.nothing")
    job = a_job()
    began = time.thread_time()
    for _ in range(ATTEMPTS):
        await attempts.make(job, task)
    return (time.thread_time() - began) / ATTEMPTS


def _by_hand(tracer: Tracer) -> float:
    """Seconds of CPU a span, as an app would make the span by the SDK."""
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - as above
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - as above
        TraceContextTextMapPropagator,
    )

    extract = TraceContextTextMapPropagator().extract
    began = time.thread_time()
    for _ in range(ATTEMPTS):
        place = extract({"traceparent": TRACEPARENT})
        with tracer.start_as_current_span("process bench.nothing", place, SpanKind.CONSUMER, dict(ATTRIBUTES)) as span:
            span.set_attribute("pushq.outcome", "succeeded")
    return (time.thread_time() - began) / ATTEMPTS


async def _no_payload(_: Job) -> str | None:
    return None


def a_job() -> Job:
    extras = json.dumps({"traceparent": TRACEPARENT})
    return Job(
        UUID(int=1), "bench.nothing", "default", "{}", 1, 0, 0, None, None, None, None, UUID(int=2), extras=extras
    )
