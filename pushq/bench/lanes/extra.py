"""What jobs cost more in a queue with a rule: CPU of the server's process for claim and finish."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pushq.bench.backend import Backend, backend, load_anew, turns
from pushq.bench.bare import register
from pushq.bench.connection import Connection, connected, session_settings
from pushq.bench.figures import Measure, no_more_than
from pushq.bench.run import Run

BATCHES = ((500, 3), (100, 12))
"""Jobs a batch, and batches that are measured at once."""
TURNS, TURNS_LONG = 4, 8

EndJobs = Callable[[Backend, int, int], Awaitable[float]]
"""Ends jobs on a backend: so many a batch, in so many batches. Returns seconds of CPU a job."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way in which jobs are ended. connection: loads the jobs."""

    connection: Connection
    pool: Backend
    end_jobs: EndJobs


@asynccontextmanager
async def pool_in_database(run: Run, rule: str | None = None) -> AsyncIterator[tuple[Connection, Backend]]:
    """A database with a pool's session. rule: a statement that gives the queue a rule."""
    async with (
        run.ground.database() as url,
        connected(url) as connection,
        backend(run, url, session_settings(is_durable=False)) as pool,
    ):
        await register(url)
        if rule:
            await connection.execute(rule)
        yield connection, pool


async def measure_extra(run: Run, stage: str, ways: Mapping[str, Way], insert: str, limit: str, most: float) -> None:
    """Measures ways in turn, many times a round. The first way is the limit, and the others cost more.

    insert: inserts $1 jobs. most: microseconds a job.
    """
    plain, *others = ways
    await _measured(ways.values(), insert, 1)  # prepares statements, fills caches
    async for _ in run.rounds(stage):
        for batch, seen in (await _measured(ways.values(), insert, turns(run, TURNS, TURNS_LONG))).items():
            spent = {name: 1e6 * one for name, one in zip(ways, seen, strict=True)}
            for name in others:
                what = f"{name} by {batch}: extra CPU a job"
                run.add(
                    Measure("lanes", what, "us", limit, no_more_than(most)), spent[name] - spent[plain], spent[plain]
                )


async def _measured(given: Iterable[Way], insert: str, count: int) -> dict[int, list[float]]:
    """Jobs a batch → for each way the median of `count` turns. Each turn begins with another way."""
    ways = list(given)
    seen = defaultdict[tuple[int, int], list[float]](list)
    jobs = count * sum(batch * (batches + 1) for batch, batches in BATCHES)
    for way in ways:
        await load_anew(way.connection, jobs, insert)
    for turn in range(count):
        for batch, batches in BATCHES:
            for one in range(len(ways)):
                place = (one + turn) % len(ways)
                seen[batch, place].append(await ways[place].end_jobs(ways[place].pool, batch, batches))
    return {batch: [statistics.median(seen[batch, place]) for place in range(len(ways))] for batch, _ in BATCHES}
