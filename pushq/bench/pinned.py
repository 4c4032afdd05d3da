"""pinned: how much an open transaction slows the queue, by keeping vacuum from dead rows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, Target, at_least, at_most, no_more_than, percentile
from pushq.bench.pick_up import insert_steadily, stamps
from pushq.bench.run import Run
from pushq.bench.supervisors import supervising

RATE = 500
"""Jobs inserted a second."""
WINDOW = 10.0
"""Seconds. Each window has its figures."""
BEFORE = 3
"""Windows before the horizon is pinned."""
SECONDS_TO_RECOVER = 180.0
NORMAL = 1.5
"""A window is normal again if its p99 is at most this many times the p99 from before."""


@dataclass(frozen=True, slots=True)
class Window:
    """Jobs run a second, milliseconds from commit to handler, and dead tuples."""

    rate: float
    p50: float
    p99: float
    dead_tuples: int


async def measure_pinned(run: Run) -> None:
    minutes = run.scope.minutes or (10.0 if run.scope.is_long else 1.0)
    window = run.scope.seconds(WINDOW)
    async for _ in run.rounds(f"pinned for {minutes:g} min", 1):
        async with run.ground.database() as url, connected(url) as producer, connected(url) as onlooker:
            with supervising(url) as (supervisor,):
                await supervisor.wait_ready()
                watch = _Watch(run, producer, onlooker, window)
                await watch.one("warming up")
                before = [await watch.one("before") for _ in range(BEFORE)]
                async with _pinning(url):
                    pinned = [await watch.one("pinned") for _ in range(max(1, round(60 * minutes / window)))]
                after = await _until_normal(watch, before, window)
        _note(run, before, pinned, after, window)


def _note(run: Run, before: Sequence[Window], pinned: Sequence[Window], after: Sequence[Window], window: float) -> None:
    """Adds figures for each minute and for the end. The limit is the median window from before."""
    usual = _median(before)
    for number, one in enumerate(pinned, 1):
        if number == len(pinned):
            _note_window(run, "at the end", one, usual, at_least(0.98), at_most(3))
        elif number * window % 60 == 0:
            _note_window(run, f"after {number * window:g} s", one, usual)
    run.add(Measure("pinned", "normal again after", "s", target=no_more_than(60)), len(after) * window)


def _note_window(
    run: Run, at: str, one: Window, usual: Window, held: Target | None = None, prompt: Target | None = None
) -> None:
    run.add(Measure("pinned", f"{at}: run", "jobs/s", "before", held), one.rate, usual.rate)
    run.add(Measure("pinned", f"{at}: pick-up p50", "ms", "before"), one.p50, usual.p50)
    run.add(Measure("pinned", f"{at}: pick-up p99", "ms", "before", prompt), one.p99, usual.p99)
    run.add(Measure("pinned", f"{at}: dead tuples", "rows", "before"), one.dead_tuples, usual.dead_tuples)


def _median(windows: Sequence[Window]) -> Window:
    middle = {name: sorted(getattr(one, name) for one in windows)[len(windows) // 2] for name in Window.__slots__}
    return Window(**middle)


async def _until_normal(watch: _Watch, before: Sequence[Window], window: float) -> list[Window]:
    """The windows after the transaction has ended, up to the first normal window."""
    usual = _median(before).p99
    after = [await watch.one("after")]
    while after[-1].p99 > NORMAL * usual and len(after) * window < SECONDS_TO_RECOVER:
        after.append(await watch.one("after"))
    return after


@asynccontextmanager
async def _pinning(url: str) -> AsyncIterator[None]:
    """Holds a transaction open, with a snapshot from the start of the block."""
    async with (
        connected(url, {"idle_in_transaction_session_timeout": "0"}) as holder,
        holder.transaction(isolation="repeatable_read"),
    ):
        await holder.fetchval("select count(*) from pushq.supervisors")
        yield


class _Watch:
    """Keeps a steady load, and measures windows."""

    def __init__(self, run: Run, producer: Connection, onlooker: Connection, window: float) -> None:
        self._run = run
        self._producer = producer
        self._onlooker = onlooker
        self._window = window

    async def one(self, phase: str) -> Window:
        began = time.monotonic()
        inserted = await insert_steadily(self._producer, RATE, self._window)
        began_at = await stamps(self._onlooker, list(inserted))
        window = self._of(inserted, began_at, began, await self._dead_tuples())
        self._run.show(f"pinned, {phase}: {window.rate:.0f} jobs/s, p99 {window.p99:.1f} ms, {window.dead_tuples} dead")
        return window

    def _of(
        self,
        inserted: dict[UUID, tuple[float, float]],
        began_at: dict[UUID, float],
        began: float,
        dead_tuples: int,
    ) -> Window:
        waits = [1000 * (began_at[job] - committed) for job, (_, committed) in inserted.items()]
        rate = len(waits) / max(self._window, max(began_at.values()) - began)
        return Window(rate, percentile(waits, 0.5), percentile(waits, 0.99), dead_tuples)

    async def _dead_tuples(self) -> int:
        return int(
            await self._onlooker.fetchval(
                "select n_dead_tup from pg_stat_all_tables where relid = 'pushq.jobs_unfinished'::regclass"
            )
        )
