"""How long a step of the purge takes beside millions of finished jobs, and what a sweep pays without a rule."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta

from pushq.bench.backend import Backend, backend, turns
from pushq.bench.connection import Connection, connected, session_settings
from pushq.bench.figures import Measure, no_more_than, number, percentile
from pushq.bench.fill import fill_history
from pushq.bench.run import Run
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.errors import PushqError
from pushq.sweeper import Sweeper
from pushq.sweeper.store import Purged, Store

OTHERS, OTHERS_LONG = 1_000_000, 10_000_000
"""Finished jobs of a queue without a rule, of the same day."""
GOING = 50_000
"""Jobs that a round purges."""
MOST_MS = 50
A_WEEK = timedelta(days=7).total_seconds()

FOLDS = 200
TURNS, TURNS_LONG = 6, 20
MOST_US = 100
"""A sweep begins every 15 seconds."""
RULES = "exists (select from pushq.queues where keep is not null or keep_failed is not null)"
"""How the statement that folds tallies asks for rules."""

LEAVE = """
insert into pushq.jobs (
    task, queue, tenant_id, status, attempt, started_at, finished_at, supervisor, pool, token, finished_on)
select
    'bench.noop', 'bench.brief', 'tenant' || i % 97, 'succeeded', 1, now(), now() - interval '1 hour', 'bench', 1,
    gen_random_uuid(), (select pushq.current_day())
from generate_series(1, $1) as i
"""


async def measure_retention(run: Run) -> None:
    """Purges one queue's jobs, with those of another queue beside and with none."""
    others = run.scope.jobs(OTHERS_LONG if run.scope.is_long else OTHERS)
    going = run.scope.jobs(GOING)
    stage = f"deliver, purge beside {number(others)} of others"
    if run.restore(stage):
        return
    async with _side(run) as full, _side(run) as empty:
        run.show(f"{stage}: loading")
        await fill_history(full.connection, others)
        count = turns(run, TURNS, TURNS_LONG)
        async for one in run.rounds(stage):
            await _note_folds(run, full, count, others)
            in_turn = (full, empty) if one % 2 else (empty, full)
            took = {side.url: await _purge(side, going) for side in in_turn}
            for name, share in (("p50", 0.5), ("max", 1.0)):
                what = f"a step of the purge, beside {number(others)} of others, {name}"
                measure = Measure("deliver", what, "ms", "with none", no_more_than(MOST_MS))
                run.add(measure, percentile(took[full.url], share), percentile(took[empty.url], share))


@dataclass(frozen=True, slots=True)
class _Side:
    url: str
    connection: Connection
    sweeper: Backend


@asynccontextmanager
async def _side(run: Run) -> AsyncIterator[_Side]:
    async with (
        run.ground.database() as url,
        connected(url) as connection,
        backend(run, url, session_settings(is_durable=True)) as sweeper,
    ):
        yield _Side(url, connection, sweeper)


# A queue with a rule --------------------------------------------------------------------------------------------------


async def _purge(side: _Side, going: int) -> list[float]:
    """Milliseconds of each step of a whole pass, as a sweeper makes them."""
    await side.connection.execute(LEAVE, going)
    await side.connection.execute("delete from pushq.purges")
    await side.connection.execute("select pushq.keep('bench.brief', '1 minute')")
    session = Session(side.url, "pushq bench")
    store = _TimedStore(session)
    try:
        swept = await Sweeper(store, retention=A_WEEK).sweep_whole()
    finally:
        await session.close()
    await side.connection.execute("select pushq.keep('bench.brief')")
    if swept.purged != going or swept.troubles:
        raise PushqError(f"Of {going} jobs {swept.purged} were purged. {' '.join(swept.troubles)}")
    return store.took


class _TimedStore(Store):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.took = list[float]()

    async def purge_day(self, day: date, keep: timedelta, blocks: int, most: int) -> Purged:
        began = time.perf_counter()
        step = await super().purge_day(day, keep, blocks, most)
        self.took.append(1000 * (time.perf_counter() - began))
        return step


# No rule --------------------------------------------------------------------------------------------------------------


async def _note_folds(run: Run, side: _Side, count: int, others: int) -> None:
    """What the question whether there is a rule adds to a sweep: nothing else is done."""
    asking = statement("fold")
    if RULES not in asking:
        raise PushqError("fold.sql asks for rules in other words than the benchmark.")
    texts = {True: asking, False: asking.replace(RULES, "false")}
    seen: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(count):
        for asks in (True, False) if turn % 2 else (False, True):
            seen[asks].append(await _spent(side.sweeper, texts[asks]))
    asked, plain = (percentile(seen[asks], 0.5) for asks in (True, False))
    what = f"extra CPU a sweep for rules, without one, beside {number(others)} of others"
    run.add(Measure("deliver", what, "us", "the fold of tallies", no_more_than(MOST_US)), asked - plain, plain)


async def _spent(sweeper: Backend, text: str) -> float:
    """Microseconds of CPU a statement."""
    before = sweeper.spent()
    for _ in range(FOLDS):
        await sweeper.connection.fetch(text, 1)
    return 1e6 * (sweeper.spent() - before) / FOLDS
