"""Turns the table's tallies and this process's figures into Prometheus metrics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pushq.database.store import Store

OTHER = "_other"
FINISHED = ("succeeded", "failed", "cancelled")
WAKEUPS = ("notify", "poll", "timer", "linger")


@dataclass(slots=True)
class ProcessFigures:
    """What a supervisor tells of itself and its pools, dead ones included where it is a count."""

    busy: int = 0
    workers: int = 0
    wakeups: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAKEUPS, 0))
    notifications: int = 0
    listeners_up: int = 0


class Exposition:
    """What /metrics says. `figures` is asked for this process's own at each scrape.

    A scrape is three short statements, whatever the history: the tallies hold a row a combination of labels and
    buckets. Scrapes that come together share one, so that a storm of them cannot hold up a heartbeat.
    """

    def __init__(self, store: Store, figures: Callable[[], ProcessFigures]) -> None:
        self._store = store
        self._figures = figures
        self._turn = anyio.Lock()
        self._taken_at = -math.inf
        self._registry = CollectorRegistry(auto_describe=False)

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics if it was asked for, else Prometheus text.

        Raises DatabaseAway and DatabaseRefused.
        """
        came_at = anyio.current_time()
        async with self._turn:
            if self._taken_at < came_at:
                await self._scrape()
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    async def _scrape(self) -> None:
        taken_at = anyio.current_time()
        live = await self._store.live()
        snapshot = _Snapshot(await self._store.tallies(), await self._store.gauges(), live, self._figures())
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(snapshot)
        self._taken_at = taken_at


class _Snapshot(Collector):
    def __init__(self, tallies: Sequence[Any], gauges: Sequence[Any], live: Any, figures: ProcessFigures) -> None:
        self._tallies = tallies
        self._gauges = gauges
        self._live = live
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        yield from self._from_gauges()
        yield from self._from_tallies()
        yield from self._from_process()

    def _from_gauges(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("pushq_jobs", "Unfinished jobs, as last counted.", labels=["queue", "status"])
        oldest = GaugeMetricFamily(
            "pushq_queue_oldest_seconds", "Age of the oldest job that is due and queued.", labels=["queue"]
        )
        counted = {(row["queue"], row["status"]): row for row in self._gauges}
        for queue in sorted({*self._live["queues"], *(row["queue"] for row in self._gauges)}):
            for status in ("queued", "running"):
                row = counted.get((queue, status))
                jobs.add_metric([queue, status], row["jobs"] if row else 0)
            row = counted.get((queue, "queued"))
            oldest.add_metric([queue], (row["age"] or 0.0) if row else 0.0)
        yield jobs
        yield oldest
        yield GaugeMetricFamily(
            "pushq_supervisors", "Supervisors whose lease is live.", value=self._live["supervisors"]
        )

    def _from_tallies(self) -> Iterator[Metric]:
        finished = CounterMetricFamily(
            "pushq_jobs_finished", "Jobs finished, by how they ended.", labels=["queue", "task", "status"]
        )
        for (queue, task, outcome), jobs in _sums(self._tallies, "queue", "task", "outcome").items():
            if outcome in FINISHED:
                finished.add_metric([queue, task, outcome], jobs)
        yield finished
        yield self._histogram(
            "pushq_job_run_seconds",
            "From started to finished, of a finished job's last attempt.",
            "run",
            ["queue", "task", "outcome"],
            ["queue", "task", "status"],
        )
        yield self._histogram(
            "pushq_job_wait_seconds",
            "From due to started, of a finished job's last attempt.",
            "wait",
            ["queue", "task"],
            ["queue", "task"],
        )
        yield self._counter("pushq_job_retries", "Attempts after which the job was queued again.", "retried")
        yield self._counter(
            "pushq_jobs_requeued",
            "Attempts that ended with their process, after which the job was queued again.",
            "requeued",
        )

    def _counter(self, name: str, text: str, outcome: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=["queue", "task"])
        rows = [row for row in self._tallies if row["outcome"] == outcome]
        for labels, jobs in _sums(rows, "queue", "task").items():
            family.add_metric(labels, jobs)
        return family

    def _histogram(self, name: str, text: str, of: str, columns: Sequence[str], labels: Sequence[str]) -> Metric:
        bounds = [*map(_bound, self._live[f"{of}_bounds"]), "+Inf"]
        family = HistogramMetricFamily(name, text, labels=labels)
        measured = [row for row in self._tallies if row["outcome"] in FINISHED and row[f"{of}_bucket"] >= 0]
        grouped: dict[tuple[str, ...], list[Any]] = defaultdict(list)
        for row in measured:
            grouped[tuple(row[column] for column in columns)].append(row)
        for values, rows in grouped.items():
            counts = [
                sum(row["jobs"] for row in rows if row[f"{of}_bucket"] <= bucket) for bucket in range(len(bounds))
            ]
            family.add_metric(values, list(zip(bounds, counts, strict=True)), sum(row[f"{of}_seconds"] for row in rows))
        return family

    def _from_process(self) -> Iterator[Metric]:
        figures = self._figures
        workers = GaugeMetricFamily("pushq_workers", "Workers of this supervisor's pools.", labels=["state"])
        workers.add_metric(["idle"], max(figures.workers - figures.busy, 0))
        workers.add_metric(["busy"], figures.busy)
        yield workers
        wakeups = CounterMetricFamily(
            "pushq_wakeups", "Times an idle pool looked for jobs again, by what made it.", labels=["source"]
        )
        for source in WAKEUPS:
            wakeups.add_metric([source], figures.wakeups.get(source, 0))
        yield wakeups
        yield CounterMetricFamily(
            "pushq_notifications_received", "Notifications heard by this supervisor's pools.", figures.notifications
        )
        yield GaugeMetricFamily(
            "pushq_listener_up", "Pools of this supervisor that hear notifications.", figures.listeners_up
        )


def _sums(rows: Iterable[Any], *columns: str) -> dict[tuple[str, ...], int]:
    sums: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        sums[tuple(row[column] for column in columns)] += row["jobs"]
    return sums


def _bound(bound: float) -> str:
    return str(float(bound))
