"""`pushq demo`: pushq at work on a machine that has nothing but Python, with an embedded PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from pushq.database.session import Session
from pushq.demo.files import task_for
from pushq.errors import PushqError
from pushq.pool.figures import INTERVAL


@dataclass(frozen=True, slots=True)
class Counts:
    finished: int
    failed: int
    total: int


class Demo:
    """Plays the app: inserts and watches jobs by plain SQL on one session, while the supervisor works."""

    def __init__(self, session: Session, supervisor: subprocess.Popen[bytes], port: int) -> None:
        self._session = session
        self._supervisor = supervisor
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"

    async def insert(self, files: Sequence[Path]) -> None:
        """One job a file."""
        await self._session.fetch(
            "insert into pushq.jobs (task, payload) "
            "select task, jsonb_build_object('path', path) from unnest($1::text[], $2::text[]) as file (task, path)",
            [task_for(file) for file in files],
            [str(file) for file in files],
        )

    async def watch(self, total: int) -> AsyncIterator[Counts]:
        """Counts, a few times a second, until every job is finished. Raises PushqError if the supervisor ends."""
        counts = Counts(0, 0, total)
        while counts.finished < total:
            if self._supervisor.poll() is not None:
                raise PushqError(f"The demo's supervisor ended by itself, with {self._supervisor.returncode}.")
            (row,) = await self._session.fetch(
                "select count(*) as finished, count(*) filter (where status = 'failed') as failed "
                "from pushq.jobs where finished_on < 'infinity'"
            )
            counts = Counts(row["finished"], row["failed"], total)
            yield counts
            await anyio.sleep(0.2)

    async def summary(self) -> list[dict[str, Any]]:
        """A row a task: done, failed, retried, jobs/s, and the wait from due to started in milliseconds."""
        rows = await self._session.fetch(
            """
            select
                task,
                count(*) filter (where status = 'succeeded') as done,
                count(*) filter (where status = 'failed') as failed,
                sum(attempt - 1) as retried,
                round(count(*) / extract(epoch from max(finished_at) - min(enqueued_at)))::int as "jobs/s",
                round(1000 * percentile_cont(0.5) within group (order by waited))::int as "wait p50 ms",
                round(1000 * percentile_cont(0.99) within group (order by waited))::int as "wait p99 ms"
            from pushq.jobs
            cross join lateral (
                select extract(epoch from pushq.waited(run_at, enqueued_at, started_at)) as waited) as duration
            where finished_on < 'infinity'
            group by task
            order by task
            """
        )
        return [dict(row) for row in rows]

    async def pick_ups(self, count: int) -> list[float]:
        """Runs single jobs on the idle system, one after another. Returns each job's seconds from INSERT to start.

        The commit is included.
        """
        return [await self._pick_up(json.dumps({"path": __file__})) for _ in range(count)]

    async def _pick_up(self, payload: str) -> float:
        (inserted,) = await self._session.fetch(
            "insert into pushq.jobs (task, payload) values ('file.digest', $1::text::jsonb) returning id", payload
        )
        while True:
            rows = await self._session.fetch(
                "select extract(epoch from started_at - enqueued_at)::float8 as waited from pushq.jobs "
                "where id = $1 and finished_on < 'infinity'",
                inserted["id"],
            )
            if rows:
                return float(rows[0]["waited"])
            await anyio.sleep(0.01)

    async def metrics(self) -> list[str]:
        """The lines that Prometheus would scrape, once the pools have reported the newest figures."""
        await anyio.sleep(2 * INTERVAL)
        return (await to_thread.run_sync(_fetch, self.metrics_url)).splitlines()


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own
        return str(response.read().decode())
