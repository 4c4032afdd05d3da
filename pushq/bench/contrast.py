"""Drain and pick-up on a full database, compared round by round with an empty database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pushq.bench.connection import Connection, connected
from pushq.bench.drain import drain
from pushq.bench.figures import Measure, at_least, at_most
from pushq.bench.pick_up import PickUps, measured
from pushq.bench.run import Run
from pushq.bench.supervisors import TUNED, supervising

JOBS = 20_000
RATE = 50
"""Jobs inserted a second, for pick-ups."""
SECONDS = 2.0
AS_GOOD = 0.95
"""Ratio to the empty database."""


async def measure_contrast(run: Run, scenario: str, what: str, fill: Callable[[Connection], Awaitable[None]]) -> None:
    """Measures both databases. what: the contents of the full database. fill: inserts the contents."""
    stage = f"{scenario}, {what}"
    if run.restore(stage):
        return
    drained = Measure(scenario, f"drain, {what}", "jobs/s", "with none", at_least(AS_GOOD))
    middle = Measure(scenario, f"pick-up p50, {what}", "ms", "with none", at_most(1 / AS_GOOD))
    late = Measure(scenario, f"pick-up p99, {what}", "ms", "with none")
    async with run.ground.database() as empty, run.ground.database() as full:
        run.show(f"{stage}: loading")
        async with connected(full) as connection:
            await fill(connection)
        async for one in run.rounds(stage):
            in_turn = (full, empty) if one % 2 else (empty, full)
            rates = {url: await drain(url, run.scope.jobs(JOBS), *TUNED) for url in in_turn}
            pick_ups = {url: await _pick_ups(url, run.scope.seconds(SECONDS)) for url in in_turn}
            run.add(drained, rates[full], rates[empty])
            run.add(middle, *(pick_ups[url].percentile(0.5) for url in (full, empty)))
            run.add(late, *(pick_ups[url].percentile(0.99) for url in (full, empty)))


async def _pick_ups(url: str, seconds: float) -> PickUps:
    with supervising(url, "--poll-interval=0") as (supervisor,):
        await supervisor.wait_ready()
        async with connected(url) as connection:
            await measured(connection, RATE, 0.4)
            return await measured(connection, RATE, seconds)
