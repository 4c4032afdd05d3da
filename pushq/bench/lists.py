"""lists: how long `pushq jobs list` and `pushq queues` take, and whether they read a table as a whole."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pushq.bench.connection import connected
from pushq.bench.figures import Measure, no_more_than, number
from pushq.bench.fill import fill_days, fill_queues
from pushq.bench.run import Run
from pushq.database.session import Session
from pushq.desk import PLANS, Desk, Filter
from pushq.errors import PushqError

ROWS = 50
TRIES = 5
MOST_MS = 100.0

FILTERS: Mapping[str, Filter] = {
    "jobs": Filter(),
    "failed": Filter(status="failed"),
    "failed of a task": Filter(status="failed", task="bench.task7"),
    "failed of a task, none": Filter(status="failed", task="bench.task3"),
    "failed of a tenant": Filter(status="failed", tenant="tenant5"),
    "succeeded of a task": Filter(status="succeeded", task="bench.task3"),
    "of a tenant, none": Filter(tenant="nobody"),
    "queued": Filter(status="queued"),
    "queued in a long queue": Filter(status="queued", queue="bench.queue1"),
    "queued in a short queue": Filter(status="queued", queue="bench.rare"),
    "queued of a rare task": Filter(status="queued", task="bench.rare"),
    "running": Filter(status="running"),
    "unknown": Filter(is_unknown=True),
}


async def measure_lists(run: Run) -> None:
    """Asks each question several times in a round; the figure is the slowest. Raises PushqError for a scan of jobs."""
    finished, queued = (10_000_000, 1_000_000) if run.scope.is_long else (100_000, 50_000)
    finished, queued = run.scope.jobs(finished), run.scope.jobs(queued)
    stage = f"lists, {number(finished)} finished, {number(queued)} queued"
    if run.restore(stage):
        return
    async with run.ground.database() as url:
        async with connected(url) as connection:
            run.show(f"{stage}: loading")
            await fill_days(connection, finished)
            await fill_queues(connection, queued)
        async with _asked(url) as session:
            desk = Desk(session)
            questions: dict[str, Callable[[], Awaitable[object]]] = {
                name: partial(desk.list_jobs, wanted, ROWS) for name, wanted in FILTERS.items()
            }
            questions["queues"] = desk.list_queues
            questions["supervisors"] = desk.list_supervisors
            async for _ in run.rounds(stage):
                for name, ask in questions.items():
                    run.add(Measure("lists", name, "ms", None, no_more_than(MOST_MS)), await _slowest(ask))
            for ask in questions.values():
                await session.refuse_scans(ask)


async def _slowest(ask: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of the slowest of a few tries, after a first one that loads the pages."""
    slowest = -math.inf
    await ask()
    for _ in range(TRIES):
        began = time.perf_counter()
        await ask()
        slowest = max(slowest, 1000 * (time.perf_counter() - began))
    return slowest


class _Asked(Session):
    """A desk's session that looks at the plans of its statements, on demand."""

    _looks = False

    async def refuse_scans(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Asks, and raises PushqError if a statement scans a table of jobs."""
        self._looks = True
        await ask()
        self._looks = False

    async def fetch(self, statement: str, *arguments: object, deadline: float | None = None) -> list[Any]:
        if self._looks:
            (row,) = await super().fetch(f"explain (format json) {statement}", *arguments)
            if scanned := [table for table in scans(json.loads(row[0])[0]["Plan"]) if table.startswith("jobs")]:
                raise PushqError(f"A list scans {', '.join(scanned)}: {statement.splitlines()[0]}")
        return await super().fetch(statement, *arguments, deadline=deadline)


def scans(plan: Mapping[str, Any]) -> list[str]:
    """The tables that a plan, as JSON, reads as a whole."""
    here = [plan["Relation Name"]] if plan["Node Type"] == "Seq Scan" else []
    return here + [table for part in plan.get("Plans", ()) for table in scans(part)]


@asynccontextmanager
async def _asked(url: str) -> AsyncIterator[_Asked]:
    session = _Asked(url, "pushq bench", deadline=60, settings=PLANS)
    try:
        yield session
    finally:
        await session.close()
