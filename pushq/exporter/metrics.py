"""Turns the table's tallies and this process's figures into Prometheus metrics."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import accumulate, groupby, islice
from operator import itemgetter
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pushq.database.session import Session
from pushq.errors import DatabaseTrouble
from pushq.events import WAKEUPS, ChoreDone, ChoreFailed, publish
from pushq.exporter.figures import ProcessFigures
from pushq.exporter.store import Store

FINISHED = ("succeeded", "failed", "cancelled")
LONGEST_READ = 4.0
"""Seconds for the reads of one scrape. A scrape may wait twice as long, for the scrape under way and for its own.

Prometheus gives up after ten seconds.
"""
AT_A_TIME = 20
"""Pairs of labels written, about a thousand lines, between two turns of the event loop."""

_PAIR = itemgetter("queue", "task")


@dataclass(frozen=True, slots=True)
class _Table:
    """The rows read by one scrape."""

    overview: Any
    gauges: Sequence[Any]
    oldest_running: Sequence[Any]
    limits: Sequence[Any]
    tallies: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric with its few samples; or with many, as ready lines, a text for each combination of labels."""

    metric: Metric
    lines: Iterable[str] = ()


class Exposition:
    """The content of /metrics. `figures` returns this process's own figures at each scrape.

    A scrape is five short statements, whatever the history: the tallies have a row for each combination of labels, and
    the combinations are bounded. The text is written in pieces, between which the event loop runs other tasks. Scrapes
    that come together share one result. While the database does not answer, /metrics shows the outage and the figures
    of the process.
    """

    def __init__(self, store: Store, figures: Callable[[], ProcessFigures]) -> None:
        self._store = store
        self._figures = figures
        self._turn = anyio.Lock()
        self._taken_at = -math.inf
        self._failing_since: float | None = None
        self._table: _Table | None = None
        self._of_process = ProcessFigures()
        self._texts: dict[str, list[bytes]] = {}

    async def __call__(self, accept: str) -> tuple[Sequence[bytes], str]:
        """The exposition in pieces, and the content type: OpenMetrics if `accept` names it, else Prometheus text."""
        came_at = anyio.current_time()
        encode, content_type = choose_encoder(accept)
        async with self._turn:
            if self._taken_at < came_at:
                await self._scrape()
            if content_type not in self._texts:
                families = [*_from_table(self._table), *_from_process(self._of_process)]
                self._texts[content_type] = await _text(families, encode)
            return self._texts[content_type], content_type

    async def _scrape(self) -> None:
        taken_at = anyio.current_time()
        self._table = await self._read()
        self._of_process = self._figures()
        self._texts = {}
        self._taken_at = taken_at

    async def _read(self) -> _Table | None:
        """The rows of the table, or None if the database does not answer."""
        try:
            with anyio.fail_after(LONGEST_READ):
                table = _Table(
                    await self._store.overview(),
                    await self._store.gauges(),
                    await self._store.oldest_running(),
                    await self._store.limits(),
                    await self._store.tallies(),
                )
        except DatabaseTrouble as error:
            self._note_failure(str(error))
        except TimeoutError:
            self._note_failure(f"the database has not answered a scrape for {LONGEST_READ:g} seconds")
        else:
            if self._failing_since is not None:
                publish(ChoreDone("scrape", anyio.current_time() - self._failing_since))
            self._failing_since = None
            return table
        return None

    def _note_failure(self, reason: str) -> None:
        self._failing_since = self._failing_since or anyio.current_time()
        publish(ChoreFailed("scrape", reason))


def session_for_scrapes(url: str | None, name: str) -> Session:
    """A session for scrapes alone, so that no other statement waits for a scrape. Scrapes read whole tables."""
    return Session(url, name, deadline=LONGEST_READ, settings={"enable_seqscan": "on", "work_mem": "32MB"})


# From samples to text -------------------------------------------------------------------------------------------------


async def _text(families: Iterable[_Family], encode: Callable[[Collector], bytes]) -> list[bytes]:
    """The families as text, in pieces.

    Only short families go through the library, which takes 15 microseconds a line.
    """
    end = encode(_Only())  # OpenMetrics ends with a mark
    pieces = []
    for family in families:
        pieces.append(encode(_Only(family.metric)).removesuffix(end))
        lines = iter(family.lines)
        while some := "".join(islice(lines, AT_A_TIME)):
            pieces.append(some.encode())
            await checkpoint()
    return [*pieces, end]


class _Only(Collector):
    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'


# From the table ------------------------------------------------------------------------------------------------------


def _from_table(table: _Table | None) -> Iterator[_Family]:
    """Every metric of the table, also the metrics without a sample."""
    up = "Whether the database answered this scrape. If not, the metrics of the table are missing."
    yield _Family(GaugeMetricFamily("pushq_database_up", up, value=int(table is not None)))
    yield from _gauges(table)
    tallies = table.tallies if table else ()
    yield _Family(
        CounterMetricFamily("pushq_jobs_finished", "Jobs finished, by how they ended."),
        (
            f"pushq_jobs_finished_total{{{_labels(row, status=True)}}} {float(row['jobs'])}\n"
            for row in tallies
            if row["outcome"] in FINISHED
        ),
    )
    yield _Family(
        HistogramMetricFamily("pushq_job_run_seconds", "From started to finished, of a finished job's last attempt."),
        (
            _histogram("pushq_job_run_seconds", _labels(row, status=True), table.overview["run_bounds"], "run", [row])
            for row in tallies
            if table and row["outcome"] in FINISHED and row["run_jobs"]
        ),
    )
    yield _Family(
        HistogramMetricFamily("pushq_job_wait_seconds", "From due to started, of a finished job's last attempt."),
        (
            _histogram("pushq_job_wait_seconds", _labels(rows[0]), table.overview["wait_bounds"], "wait", rows)
            for rows in ([row for row in pair if row["wait_jobs"]] for _, pair in groupby(tallies, _PAIR))
            if table and rows
        ),
    )
    yield _counter("pushq_job_retries", "Attempts after which the job was queued again.", "retried", tallies)
    yield _counter(
        "pushq_jobs_requeued",
        "Attempts that ended with their process, after which the job was queued again.",
        "requeued",
        tallies,
    )


def _gauges(table: _Table | None) -> Iterator[_Family]:
    jobs = GaugeMetricFamily("pushq_jobs", "Unfinished jobs, as last counted.", labels=["queue", "status"])
    oldest = GaugeMetricFamily(
        "pushq_queue_oldest_seconds", "Age of the oldest job that is due and queued.", labels=["queue"]
    )
    running = GaugeMetricFamily(
        "pushq_running_oldest_seconds",
        "How long the oldest running job has run, if any runs.",
        labels=["queue", "task"],
    )
    capacity = GaugeMetricFamily("pushq_limit_capacity", "Units that jobs may hold of a name at once.", labels=["name"])
    held = GaugeMetricFamily("pushq_limit_held", "Units that running jobs hold of a name.", labels=["name"])
    supervisors = GaugeMetricFamily("pushq_supervisors", "Supervisors whose lease is live.")
    faulty = GaugeMetricFamily("pushq_schedules_with_error", "Schedules with an error, up to a thousand.")
    late = GaugeMetricFamily("pushq_schedules_late_seconds", "How long the first slot of all schedules has been due.")
    if table:
        counted = {(row["queue"], row["status"]): row for row in table.gauges}
        for queue in sorted({*table.overview["queues"], *(row["queue"] for row in table.gauges)}):
            for status in ("queued", "running"):
                row = counted.get((queue, status))
                jobs.add_metric([queue, status], row["jobs"] if row else 0)
            row = counted.get((queue, "queued"))
            oldest.add_metric([queue], (row["age"] or 0.0) if row else 0.0)
        for row in table.oldest_running:
            running.add_metric([row["queue"], row["task"]], row["age"])
        for row in table.limits:
            held.add_metric([row["name"]], row["held"])
            if row["capacity"] is not None:
                capacity.add_metric([row["name"]], row["capacity"])
        supervisors.add_metric([], table.overview["supervisors"])
        faulty.add_metric([], table.overview["schedules_with_error"])
        late.add_metric([], table.overview["schedules_late"])
    return map(_Family, (jobs, oldest, running, capacity, held, supervisors, faulty, late))


def _counter(name: str, text: str, outcome: str, tallies: Iterable[Any]) -> _Family:
    return _Family(
        CounterMetricFamily(name, text),
        (f"{name}_total{{{_labels(row)}}} {float(row['jobs'])}\n" for row in tallies if row["outcome"] == outcome),
    )


def _labels(row: Any, *, status: bool = False) -> str:
    """The labels of a row, in the order of the labels' names."""
    labels = [_label("queue", row["queue"]), _label("task", row["task"])]
    if status:
        labels.insert(1, _label("status", row["outcome"]))
    return ",".join(labels)


def _histogram(name: str, labels: str, bounds: Sequence[float], of: str, rows: Sequence[Any]) -> str:
    jobs = [0] * (len(bounds) + 1)
    for row in rows:
        for bucket, counted in zip(row[f"{of}_buckets"], row[f"{of}_jobs"], strict=True):
            jobs[bucket] += counted
    sums = list(accumulate(jobs))
    lines = [
        f'{name}_bucket{{le="{bound}",{labels}}} {float(jobs)}\n'
        for bound, jobs in zip([*map(float, bounds), "+Inf"], sums, strict=True)
    ]
    lines.append(f"{name}_count{{{labels}}} {float(sums[-1])}\n")
    # Rounded to the microsecond. Floats added in another order may fall by the last bit, and Prometheus takes a fallen
    # counter for a restart.
    seconds = round(float(sum(row[f"{of}_seconds"] for row in rows)), 6)
    lines.append(f"{name}_sum{{{labels}}} {seconds}\n")
    return "".join(lines)


# From this process ---------------------------------------------------------------------------------------------------


def _from_process(figures: ProcessFigures) -> Iterator[_Family]:
    workers = GaugeMetricFamily("pushq_workers", "Workers of this supervisor's pools.", labels=["state"])
    workers.add_metric(["idle"], max(figures.workers - figures.busy, 0))
    workers.add_metric(["busy"], figures.busy)
    wakeups = CounterMetricFamily(
        "pushq_wakeups", "Times an idle pool looked for jobs again, by cause.", labels=["source"]
    )
    for source in WAKEUPS:
        wakeups.add_metric([source], figures.wakeups.get(source, 0))
    heard = "Notifications heard by this supervisor's pools."
    notifications = CounterMetricFamily("pushq_notifications_received", heard, figures.notifications)
    pools = GaugeMetricFamily("pushq_pools", "Pools of this supervisor that listen, or should.", figures.pools)
    up = "Pools of this supervisor that hear notifications."
    listeners = GaugeMetricFamily("pushq_listener_up", up, figures.listeners_up)
    gone = "Finished jobs that this supervisor deleted, since their queue's keep was over."
    purged = CounterMetricFamily("pushq_jobs_purged", gone, figures.purged)
    return map(_Family, (workers, wakeups, notifications, pools, listeners, purged, _build_info(), *_PROCESS.collect()))


_PROCESS = ProcessCollector(registry=None)
"""Memory, CPU, files and start of this process: of the supervisor, or of the exporter."""


@cache
def _build_info() -> Metric:
    about = "The version of pushq and of Python. Always 1."
    info = GaugeMetricFamily("pushq_build_info", about, labels=["version", "python"])
    info.add_metric([version("pushq-pg"), platform.python_version()], 1)
    return info
