"""The watch: looks at the table fifty times a second for a job that waits though somebody is free to run it."""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import anyio
import asyncpg

from pushq.pool.gate import LONGEST_PAUSE
from tests.torture_bell.inserters import AWAY
from tests.torture_bell.ledger import Ledger
from tests.torture_bell.stage import PARTS, QUEUES, Part, Supervisors
from tests.torture_bell.stalls import Stalls

INTERVAL = 0.02
LONGEST_GAP = 0.06
"""Seconds between two looks, above which nobody knows that a worker was free all the time."""
LATE = 0.1
"""Seconds that a job may wait for a free worker, and as long as the machine stood still meanwhile."""
MUCH_TOO_LATE = 2.0
"""Seconds that it may not wait whatever the machine does."""

UNFINISHED = """
select
    job.id, job.queue, job.attempt, job.supervisor,
    job.status = 'running' as is_running,
    job.status = 'queued' and job.crashes < 2 and job.run_at <= clock_timestamp() as is_due,
    exists (select from pushq.queues where name = job.queue and paused_at is not null) as is_paused
from pushq.jobs_unfinished as job
"""
GATES = "select queue, pg_sequence_last_value(pushq.gate(queue)) - pushq.gate_clock() from unnest($1::text[]) as queue"


@dataclass(slots=True)
class Late:
    """A violation: seconds that a job waited for workers who were free, and what was the case when it became one."""

    job: UUID
    kind: str
    queue: str
    found_at: float
    waited: float
    stalled: float
    open_gates: dict[str, float]
    free_for: dict[str, float]
    ended_by: str = "nothing yet"


@dataclass(slots=True)
class Grace:
    """From a fault until pushq works again, nobody is late. Lost is lost all the same."""

    windows: list[tuple[float, float]] = field(default_factory=list)
    is_on: bool = False

    def begin(self) -> None:
        self.is_on = True
        self.windows.append((time.time(), float("inf")))

    def end(self) -> None:
        self.is_on = False
        self.windows[-1] = self.windows[-1][0], time.time()

    def covers(self, begin: float, end: float) -> bool:
        """Whether some of that time was in a window."""
        return any(opened < end and begin < closed for opened, closed in self.windows)


class Watch:
    """What it saw: `late`, `waits` in seconds, `crowded` jobs that had to wait for a worker or their queue."""

    def __init__(self, url: str, ledger: Ledger, supervisors: Supervisors, grace: Grace, stalls: Stalls) -> None:
        self._url = url
        self._ledger = ledger
        self._supervisors = supervisors
        self._grace = grace
        self._stalls = stalls
        self._looked_at = 0.0
        self._free_since: dict[Part, float] = {}
        self._waiting_since: dict[UUID, float] = {}
        self._waited: dict[UUID, float] = {}
        self._gates: dict[str, float] = {}
        self.late: dict[UUID, Late] = {}
        self.waits = deque[float]()
        self.crowded = set[UUID]()
        self.looks = 0
        self.transitions = Counter[str]()
        self.found = anyio.Event()

    async def run(self) -> None:
        while True:
            with suppress(*AWAY):
                connection = await asyncpg.connect(self._url, timeout=5)
                try:
                    while True:
                        await self._look(connection)
                        await anyio.sleep(INTERVAL)
                finally:
                    connection.terminate()
            await anyio.sleep(0.05)

    async def _look(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        asked_at = time.time()
        rows = await connection.fetch(UNFINISHED)
        self._notice_gates(await connection.fetch(GATES, list(QUEUES)))
        now = time.time()
        if self._grace.is_on or now - self._looked_at > LONGEST_GAP:
            self._free_since.clear()
        if self._grace.is_on:
            self._waiting_since.clear()
            self._waited.clear()
        else:
            self._notice_free_workers(rows, now)
            self._notice_waiting_jobs([row for row in rows if row["is_due"]], now)
        self.looks += 1
        self._looked_at = asked_at

    def _notice_gates(self, rows: list[Any]) -> None:
        gates = {queue: max(0.0, (milliseconds or 0) / 1000) for queue, milliseconds in rows}
        self.transitions["gate opened"] += sum(gates[queue] > 0 >= self._gates.get(queue, 1) for queue in gates)
        self._gates = gates

    def _notice_free_workers(self, rows: list[Any], now: float) -> None:
        """A row that is running holds a worker, though it may only wait for one, or for its outcome to be written."""
        busy = Counter(self._supervisors.part_of(row["supervisor"]) for row in rows if row["is_running"])
        for part in PARTS:
            if busy[part] >= part.concurrency:
                self.transitions["pool seen busy"] += self._free_since.pop(part, None) is not None
            else:
                self._free_since.setdefault(part, now)

    def _notice_waiting_jobs(self, rows: list[Any], now: float) -> None:
        waiting = {row["id"]: row for row in rows if not row["is_paused"]}
        self.crowded |= {row["id"] for row in rows if row["is_paused"]}
        for job in self._waiting_since.keys() - waiting.keys():
            self._close(job)
        for job, row in waiting.items():
            since = self._waiting_since.setdefault(job, self._claimable_since(row, now))
            free = {part: self._free_since[part] for part in self._free_since if row["queue"] in part.queues}
            if not free:
                self.crowded.add(job)
                continue
            waited = now - max(since, min(free.values()))
            self._waited[job] = max(waited, self._waited.get(job, 0.0))
            self._judge(job, row["queue"], waited, {part: now - since for part, since in free.items()})

    def _claimable_since(self, row: Any, now: float) -> float:
        """The inserter knows better than two looks; of a job that comes back, it knows nothing."""
        entry = self._ledger.entries.get(row["id"])
        if entry is None or row["attempt"] > 0 or not entry.announced_at:
            return now
        return min(now, max(entry.due_at, self._looked_at))

    def _judge(self, job: UUID, queue: str, waited: float, free_for: dict[Part, float]) -> None:
        stalled = self._stalls.since(time.time() - waited)
        if job in self.late:
            self.late[job].waited = max(self.late[job].waited, waited)
        elif waited > min(LATE + stalled + self._looked_after(job), MUCH_TOO_LATE):
            kind = self._ledger.entries[job].kind if job in self._ledger.entries else "not ours"
            free = {"+".join(part.queues): seconds for part, seconds in free_for.items()}
            self.late[job] = Late(job, kind, queue, time.time(), waited, stalled, dict(self._gates), free)
            self.found.set()

    def _looked_after(self, job: UUID) -> float:
        """Seconds until a pool looks again after a transaction that it waits for: as long as it has waited, at most."""
        entry = self._ledger.entries.get(job)
        return min(entry.open_for, LONGEST_PAUSE) if entry else 0.0

    def _close(self, job: UUID) -> None:
        """It does not wait any longer."""
        del self._waiting_since[job]
        self.waits.append(self._waited.pop(job, 0.0))
        if job in self.late:
            announced_at, kind, queue = self._ledger.last_announced
            self.late[job].ended_by = f"a commit {time.time() - announced_at:.3f} s before: {kind}, {queue}"
