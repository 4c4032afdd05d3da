"""The systems that are compared, their versions, and their best configurations.

A configuration follows the system's own documentation on performance. Where the documentation names no number, as for
pg-boss, PgQueuer and awa, the number is ours. No number was swept, neither a peer's nor pushq's. Whoever knows a better
one is asked to say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ADAPTERS = Path(__file__).with_name("adapters")


@dataclass(frozen=True, slots=True)
class System:
    """A job queue. packages: what its language's registry is asked for.

    drain, live: the configuration of a worker for a backlog, and for jobs that come one by one, as its adapter reads
    them. bulk: the name of the call for many jobs, if the client has two.
    """

    name: str
    language: Literal["Python", "Node.js"]
    adapter: str
    packages: tuple[str, ...] = ()
    drain: Mapping[str, Any] = field(default_factory=dict)
    live: Mapping[str, Any] = field(default_factory=dict)
    bulk: str | None = None

    @property
    def file(self) -> Path:
        return ADAPTERS / self.adapter


PUSHQ = System(
    "pushq", "Python", "pushq.py",
    drain={"flags": ["--concurrency=1000"]},
    live={"flags": []},
    bulk="copy",
)  # fmt: skip
NODE = "node@24.21.0"
PEERS = (
    System(
        "Graphile Worker", "Node.js", "graphile-worker.mjs", ("graphile-worker@0.17.3", "pg@8.23.1"),
        # https://worker.graphile.org/docs/performance: local queue, batched completion
        drain={
            "concurrentJobs": 24, "maxPoolSize": 24, "completeJobBatchDelay": 0, "failJobBatchDelay": 0,
            "localQueue": {"size": 500},
        },
        live={"concurrentJobs": 24, "maxPoolSize": 24},
    ),
    System(
        "pg-boss", "Node.js", "pg-boss.mjs", ("pg-boss@12.38.0", "pg@8.23.1"),
        # https://timgit.github.io/pg-boss: notify wakes a worker, and full batches are fetched without a pause
        drain={
            "instance": {"useListenNotify": True}, "queue": {"notify": True},
            "worker": {"batchSize": 2000, "burstWhenBatchFull": True, "localConcurrency": 2},
        },
        live={
            "instance": {"useListenNotify": True}, "queue": {"notify": True},
            "worker": {"batchSize": 10, "burstWhenBatchFull": True, "localConcurrency": 2},
        },
    ),
    System(
        "PgQueuer", "Python", "pgqueuer.py", ("pgqueuer==1.6.0", "asyncpg==0.32.0"),
        # https://pgqueuer.readthedocs.io, performance tuning: a larger batch, `pgq autovac`
        drain={"batch_size": 500},
        live={"batch_size": 10},
    ),
    System(
        "awa", "Python", "awa.py", ("awa-pg==0.6.9",),
        drain={"client": {"max_connections": 20}, "queue": {"max_workers": 200}, "start": {"poll_interval_ms": 50}},
        live={"client": {"max_connections": 20}, "queue": {"max_workers": 50}, "start": {"poll_interval_ms": 50}},
    ),
)  # fmt: skip
