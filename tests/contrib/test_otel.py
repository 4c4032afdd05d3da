"""Spans of producers and attempts, by OpenTelemetry's SDK, in memory and from the pools of a supervisor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags

from pushq import NewJob, Queue, Tasks, current_job
from pushq.contrib.otel.maker import Maker
from pushq.contrib.otel.place import place_of, traceparent_of
from pushq.errors import ValueRefused
from pushq.events import Event, SpansFail, subscribe
from pushq.spans import make_spans_by
from pushq.testing import TestQueue, run
from tests.support.jobs import Connection, finished, insert
from tests.support.node import run_node
from tests.support.supervisors import ROOT, environment, supervising

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
REGISTRY = "tests.contrib.traced:tasks"

NODE = f"""
const {{ Client }} = require('pg');
(async () => {{
  const client = new Client({{ connectionString: process.env.URL }});
  await client.connect();
  await client.query("insert into pushq.jobs (task, traceparent) values ('child', $1)", ['{TRACEPARENT}']);
  await client.end();
}})();
"""


class Memory:
    """An SDK in this process, whose spans stay in memory."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        make_spans_by(Maker(tells_all=False, tracer=self.provider.get_tracer("pushq")))

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span


@pytest.fixture
def memory() -> Iterator[Memory]:
    yield Memory()
    make_spans_by(None)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def place(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def an_app(seen: list[str | None] | None = None) -> Tasks:
    tasks = Tasks()

    @tasks.register("child")
    async def child() -> str:
        if seen is not None:
            seen.append(current_job().traceparent)
        return "done"

    return tasks


# From Node to Python ------------------------------------------------------------------------------------------------


async def test_a_trace_goes_on_from_a_producer_in_node_to_a_handler_in_python(
    database_url: str, memory: Memory
) -> None:
    run_node(NODE, URL=database_url)
    seen = list[str | None]()
    (row,) = await TestQueue(database_url).drain(an_app(seen))

    span = memory.span("process child")
    assert seen == [row.traceparent] == [TRACEPARENT]
    assert place(span)[0] == TRACE
    assert span.parent
    assert (f"{span.parent.span_id:016x}", span.parent.is_remote) == (SPAN, True)
    assert (span.kind, span.links, span.status.status_code) == (SpanKind.CONSUMER, (), StatusCode.UNSET)
    assert attributes(span) == {
        "messaging.system": "pushq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": str(row.id),
        "pushq.task": "child",
        "pushq.attempt": 1,
        "pushq.outcome": "succeeded",
    }


# Producers in Python ------------------------------------------------------------------------------------------------


async def test_an_insert_is_a_span_and_the_parent_of_the_first_attempt(
    database_url: str, connection: Connection, memory: Memory
) -> None:
    with memory.provider.get_tracer("app").start_as_current_span("request"):
        await Queue("mail").insert(NewJob("child"), connection=connection)
    await TestQueue(database_url).drain(an_app(), queues=("mail",))

    request, sent, processed = (memory.span(name) for name in ("request", "insert child", "process child"))
    assert place(request)[0] == place(sent)[0] == place(processed)[0]
    assert sent.parent == request.get_span_context()
    assert processed.parent
    assert processed.parent.span_id == int(place(sent)[1], 16)
    assert sent.kind is SpanKind.PRODUCER
    assert attributes(sent) == {
        "messaging.system": "pushq",
        "messaging.operation.name": "insert",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "pushq.task": "child",
    }


async def test_every_way_to_insert_gives_the_jobs_their_place_in_the_trace(
    database_url: str, connection: Connection, memory: Memory
) -> None:
    queue, jobs = Queue(), [NewJob("a"), NewJob("b"), NewJob("c", traceparent=TRACEPARENT)]
    await queue.insert_many(jobs, connection=connection)
    await queue.enqueue_many(jobs, connection=connection)
    await queue.copy(iter(jobs), connection=connection)
    with psycopg.connect(database_url) as other:
        queue.insert_many_sync(jobs, connection=other)
        queue.enqueue_many_sync(jobs, connection=other)
        queue.copy_sync(jobs, connection=other)

    rows = await connection.fetch("select task, traceparent from pushq.jobs")
    spans = [span for name in ("insert", "enqueue", "copy") for span in memory.spans(name)]
    headers = [f"00-{'-'.join(place(span))}-03" for span in spans]
    assert sorted(row["traceparent"] for row in rows if row["task"] != "c") == sorted([*headers, *headers])
    assert {row["traceparent"] for row in rows if row["task"] == "c"} == {TRACEPARENT}
    assert len(spans) == 6
    assert [attributes(span).get("messaging.batch.message_count") for span in spans] == [3, 3, 3, 3, None, 3]


async def test_a_refused_insert_has_its_error_in_the_span_without_its_text(
    connection: Connection, memory: Memory
) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await Queue().insert(NewJob("x" * 201), connection=connection)

    (span,) = memory.exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "CheckViolationError")
    assert "jobs_task" not in (span.to_json() or "")


async def test_what_is_not_sampled_stays_so_in_the_attempt(database_url: str, connection: Connection) -> None:
    unsampled = Memory(sampler=ALWAYS_OFF)
    await Queue().insert(NewJob("child"), connection=connection)
    sampling = Memory(sampler=ParentBased(ALWAYS_ON))
    (row,) = await TestQueue(database_url).drain(an_app())

    assert row.traceparent
    assert not int(row.traceparent[-2:], 16) & TraceFlags.SAMPLED
    assert not unsampled.exporter.get_finished_spans() + sampling.exporter.get_finished_spans()


async def test_without_an_sdk_nothing_is_written_and_jobs_run(database_url: str, connection: Connection) -> None:
    make_spans_by(Maker(tells_all=False))
    try:
        await Queue().insert(NewJob("child"), connection=connection)
        (row,) = await TestQueue(database_url).drain(an_app())
    finally:
        make_spans_by(None)
    assert (row.status, row.traceparent) == ("succeeded", None)


# What is malformed, and what is to come -----------------------------------------------------------------------------

MALFORMED = ["", "00", TRACEPARENT.upper(), f"{TRACEPARENT}-more", TRACEPARENT.replace(SPAN, "0" * 16)]


@pytest.mark.parametrize("header", MALFORMED)
async def test_a_malformed_traceparent_is_refused_by_a_rule_with_a_name(
    database_url: str, connection: Connection, header: str
) -> None:
    rule = "jobs_traceparent_is_of_w3c_trace_context"
    with pytest.raises(asyncpg.CheckViolationError) as by_sql:
        await insert(connection, "child", traceparent=header)
    with pytest.raises(asyncpg.CheckViolationError) as by_queue:
        await Queue().insert(NewJob("child", traceparent=header), connection=connection)
    with pytest.raises(asyncpg.CheckViolationError) as by_enqueue:
        await Queue().enqueue(NewJob("child", traceparent=header), connection=connection)
    with pytest.raises(ValueRefused, match=rule):
        await Queue().run(NewJob("child", traceparent=header), url=database_url)

    assert {error.value.constraint_name for error in (by_sql, by_queue, by_enqueue)} == {rule}


@pytest.mark.parametrize(
    "header", [*MALFORMED[:2], MALFORMED[-1], None, "no traceparent, but as long as a traceparent would be.."]
)
def test_what_is_no_traceparent_names_no_place(header: str | None) -> None:
    assert place_of(header) is None


def test_a_later_version_is_read_as_far_as_this_one_goes() -> None:
    context = place_of(f"cc-{TRACE}-{SPAN}-ff-what.the-future-brings")

    assert context
    assert traceparent_of(context) == f"00-{TRACE}-{SPAN}-03"


# What the app does wrong --------------------------------------------------------------------------------------------


class Broken(SpanProcessor):
    def __init__(self, method: str) -> None:
        setattr(self, method, self.fail)

    def fail(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("no collector")


@pytest.mark.parametrize("method", ["on_start", "on_end"])
async def test_a_processor_that_raises_harms_no_job_and_is_told(
    database_url: str, connection: Connection, memory: Memory, method: str
) -> None:
    memory.provider.add_span_processor(Broken(method))
    told = list[Event]()
    with subscribe(told.append):
        await Queue().insert(NewJob("child"), connection=connection)
        (row,) = await TestQueue(database_url).drain(an_app())

    assert row.status == "succeeded"
    assert [event.reason for event in told if isinstance(event, SpansFail)] == ["ConnectionError"] * 2


async def test_a_test_s_own_run_has_a_span(memory: Memory) -> None:
    assert await run(an_app(), NewJob("child", traceparent=TRACEPARENT), attempt=2) == "done"

    span = memory.span("process child")
    assert span.parent is None
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE]


# In pools -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "spans"
    path.touch()
    monkeypatch.setenv("TEST_SPANS", str(path))
    return path


class Sent:
    """What pools have sent to the collector."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.spans = [line for line in lines if "name" in line]
        self.points = [
            point
            for line in lines
            for resource in line.get("resource_metrics", ())
            for scope in resource["scope_metrics"]
            for metric in scope["metrics"]
            for point in metric["data"]["data_points"]
        ]

    def named(self, name: str) -> list[dict[str, Any]]:
        return sorted((span for span in self.spans if span["name"] == name), key=lambda span: str(span["start_time"]))

    def of(self, *job_ids: UUID) -> list[dict[str, Any]]:
        ids = {str(job_id) for job_id in job_ids}
        found = [span for span in self.spans if span["attributes"].get("messaging.message.id") in ids]
        return sorted(found, key=lambda span: int(span["attributes"]["pushq.attempt"]))


@contextmanager
def a_supervisor(url: str, **settings: str) -> Iterator[Any]:
    """Stopped at the end, as by a deployment."""
    with supervising(url, tasks=REGISTRY, **settings) as supervisor:  # type: ignore[arg-type]
        yield supervisor
        assert supervisor.stop() == 0
        assert "pool died" not in supervisor.said


@pytest.mark.parametrize("middleware", ["", "yes"])
async def test_handlers_on_the_loop_and_in_threads_see_their_attempt_s_span_and_a_stopped_pool_has_sent_all(
    database_url: str, connection: Connection, written: Path, monkeypatch: pytest.MonkeyPatch, middleware: str
) -> None:
    monkeypatch.setenv("TEST_MIDDLEWARE", middleware)
    with a_supervisor(database_url) as supervisor:
        on_loop = await insert(connection, "child", traceparent=TRACEPARENT)
        in_thread = await insert(connection, "child.thread")
        rows = await finished(connection, *on_loop, *in_thread)
        assert f"trace={TRACE}" in supervisor.said

    sent = Sent(written)
    for row, span in zip(rows, (*sent.of(*on_loop), *sent.of(*in_thread)), strict=True):
        (child,) = (one for one in sent.named("child") if one["context"]["span_id"] == f"0x{json.loads(row['result'])}")
        above = {one["context"]["span_id"]: one for one in sent.spans}[child["parent_id"]]
        if middleware:
            assert above["name"] == "middleware"
            above = {one["context"]["span_id"]: one for one in sent.spans}[above["parent_id"]]
        assert above is span
        assert span["attributes"]["pushq.outcome"] == "succeeded"
    assert sent.of(*on_loop)[0]["parent_id"] == f"0x{SPAN}"
    assert sent.of(*in_thread)[0]["parent_id"] is None


async def test_a_later_attempt_is_a_trace_of_its_own_linked_to_the_producer(
    database_url: str, connection: Connection, written: Path
) -> None:
    with a_supervisor(database_url):
        jobs = [*await insert(connection, "again", traceparent=TRACEPARENT)]
        jobs += await insert(connection, "later", traceparent=TRACEPARENT)
        await finished(connection, *jobs)

    for job, outcome, status in zip(jobs, ("retried", "snoozed"), ("ERROR", "UNSET"), strict=True):
        first, second = Sent(written).of(job)
        assert (first["parent_id"], first["context"]["trace_id"], first["links"]) == (f"0x{SPAN}", f"0x{TRACE}", [])
        assert (first["attributes"]["pushq.outcome"], first["status"]["status_code"]) == (outcome, status)
        assert (second["parent_id"], second["attributes"]["pushq.outcome"]) == (None, "succeeded")
        assert second["context"]["trace_id"] != f"0x{TRACE}"
        assert [link["context"]["span_id"] for link in second["links"]] == [f"0x{SPAN}"]


@pytest.mark.parametrize("full", ["", "yes"])
async def test_a_span_tells_the_error_s_type_and_place_and_its_text_only_if_asked_to(
    database_url: str, connection: Connection, written: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    monkeypatch.setenv("TEST_FULL", full)
    with a_supervisor(database_url):
        failed, slow, cancelled = [(await insert(connection, task))[0] for task in ("fail", "slow", "cancel")]
        await finished(connection, failed, slow, cancelled)

    sent = Sent(written)
    (span,) = sent.of(failed)
    (event,) = span["events"]
    assert (span["attributes"]["error.type"], event["attributes"]["exception.type"]) == ("ValueError", "ValueError")
    assert "tests/contrib/traced.py:" in event["attributes"]["pushq.place"]
    assert ("1234" in json.dumps(span)) == bool(full)
    assert sent.of(slow)[0]["attributes"]["error.type"] == "TimeoutError"
    assert sent.of(cancelled)[0]["attributes"]["pushq.outcome"] == "cancelled"
    assert sent.of(cancelled)[0]["status"]["status_code"] == "UNSET"


@pytest.mark.parametrize("task", ["batch", "batch.thread"])
@pytest.mark.parametrize("middleware", ["", "yes"])
async def test_a_batch_is_one_span_linked_to_every_producer(
    database_url: str,
    connection: Connection,
    written: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    middleware: str,
) -> None:
    monkeypatch.setenv("TEST_MIDDLEWARE", middleware)
    other = TRACEPARENT.replace(SPAN, "1" * 16)
    async with connection.transaction():
        jobs = await insert(connection, task, 3, traceparent=TRACEPARENT)
        jobs += await insert(connection, task, 2, traceparent=other)
        if task == "batch":
            jobs += await insert(connection, task, correlation_id="fails")
    with a_supervisor(database_url):
        await finished(connection, *jobs)

    sent = Sent(written)
    (span,) = sent.named(f"process {task}")
    assert [link["context"]["span_id"] for link in span["links"]] == [f"0x{SPAN}", f"0x{'1' * 16}"]
    assert (span["parent_id"], span["attributes"]["messaging.batch.message_count"]) == (None, len(jobs))
    assert span["attributes"]["pushq.outcomes.succeeded"] == 5
    if task == "batch":
        assert (span["attributes"]["pushq.outcomes.failed"], span["attributes"]["error.type"]) == (1, "ValueError")
    (child,) = sent.named("child")
    assert child["context"]["trace_id"] == span["context"]["trace_id"]


async def test_attempts_are_counted_once_by_all_pools_together(
    database_url: str, connection: Connection, written: Path
) -> None:
    with a_supervisor(database_url, PROCESSES="2"):
        jobs = await insert(connection, "child", 20) + await insert(connection, "again", 3)
        await finished(connection, *jobs)

    counted = dict[tuple[Any, ...], int]()
    for point in Sent(written).points:
        key = point["attributes"]["pushq.task"], point["attributes"]["pushq.outcome"]
        counted[key] = counted.get(key, 0) + point["count"]
    assert counted == {("child", "succeeded"): 20, ("again", "retried"): 3, ("again", "succeeded"): 3}


async def test_a_collector_that_does_not_answer_holds_up_a_stop_until_its_deadline_and_loses_no_job(
    database_url: str, connection: Connection, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SLOW_COLLECTOR", "3600")
    with a_supervisor(database_url, SHUTDOWN_TIMEOUT="1"):
        await finished(connection, *await insert(connection, "child"))

    assert not Sent(written).spans


@pytest.mark.usefixtures("written")
async def test_a_pool_whose_exporter_hangs_ends_in_5_seconds_and_tells_of_the_spans_that_are_lost(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SLOW_COLLECTOR", "3600")
    monkeypatch.setenv("TEST_SHUTDOWN", "yes")
    with a_supervisor(database_url, SHUTDOWN_TIMEOUT="25") as supervisor:
        await finished(connection, *await insert(connection, "child"))
        began = monotonic()
        assert supervisor.stop() == 0
        assert monotonic() - began < 8
        assert "spans lost" in supervisor.said


# If it is off -------------------------------------------------------------------------------------------------------


def test_nothing_of_opentelemetry_is_imported_unless_the_app_does() -> None:
    program = "import sys, pushq, pushq.queue, pushq.task, pushq.pool_process; print(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(None), capture_output=True, check=True
    )
    assert "opentelemetry" not in imported.stdout.decode().split()


@pytest.fixture(autouse=True)
async def _nobody_makes_spans_afterwards() -> AsyncIterator[None]:
    yield
    make_spans_by(None)
