"""idle: the cost of a supervisor without work."""

from __future__ import annotations

import anyio

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_more_than
from pushq.bench.ground import database_in
from pushq.bench.run import Run
from pushq.bench.supervisors import RunningSupervisor, supervising

STATEMENTS = Measure("idle", "statements a minute", "statements", target=no_more_than(30))
CPU = Measure("idle", "CPU of supervisor and pool a minute", "s", target=no_more_than(0.3))
SETTLING = 12.0
"""Seconds until the first sweep, the gate and the canary are done, and counted by the server.

The server counts the transactions of an idle connection up to ten seconds late.
"""


async def measure_idle(run: Run) -> None:
    """Measures one round: sums over a window do not vary like rates."""
    window = run.scope.seconds(60 if run.scope.is_long else 20)
    if not run.scope.is_long:
        run.add_remark(f"idle: {window:g} s were watched and scaled to a minute; --long watches a whole one.")
    async for _ in run.rounds("idle", 1):
        async with run.ground.database() as url:
            with supervising(url) as (supervisor,):
                await supervisor.wait_ready()
                await anyio.sleep(min(SETTLING, window))
                async with connected(run.ground.url) as onlooker:  # from another database, so as not to be counted
                    statements, cpu = await _watch(onlooker, url, supervisor, window)
        run.add(STATEMENTS, statements * 60 / window)
        run.add(CPU, cpu * 60 / window)


async def _watch(onlooker: Connection, url: str, supervisor: RunningSupervisor, window: float) -> tuple[float, float]:
    """Statements, counted as transactions, and seconds of CPU within the window."""
    before, cpu = await transactions(onlooker, url), supervisor.cpu_seconds()
    await anyio.sleep(window)
    return await transactions(onlooker, url) - before, supervisor.cpu_seconds() - cpu


async def transactions(onlooker: Connection, url: str) -> int:
    """The transactions of a database so far. onlooker: a connection to another database."""
    counted = await onlooker.fetchval(
        "select xact_commit + xact_rollback from pg_stat_database where datname = $1", database_in(url)
    )
    return int(counted)
