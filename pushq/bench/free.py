"""Whether features are free for those who use none: the schema of today, and one from before the features."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pushq.bench.backend import Backend, backend, claim_and_finish, load_anew, turns
from pushq.bench.bare import claim_arguments, claim_arguments_before_lanes, finish_arguments, register
from pushq.bench.connection import Connection, connected, session_settings
from pushq.bench.figures import Measure, at_least
from pushq.bench.run import Run
from pushq.database.migrate import migrations
from pushq.database.statements import statement

INSERT = "insert into pushq.jobs (task, payload) values ('bench.noop', '{\"user_id\": 42}')"

NOW, BEFORE, TWIN = "now", "before", "twin"
BATCHES = ((100, 8), (10, 40), (1, 100))
"""Jobs a batch, and batches that are measured at once."""
INSERTS = 150
TURNS, TURNS_LONG = 8, 25


@dataclass(frozen=True, slots=True)
class Before:
    """The schema from before some features.

    scenario: that measures the features. version: the last migration. claim, finish: the statements of the time.
    aim: how fast today's schema is to be, as a share.
    """

    scenario: str
    version: int
    claim: str
    finish: str
    aim: float = 0.98


Spent = Mapping[tuple[str, str], float]
"""What was done, and the side → seconds of CPU a job."""


@dataclass(frozen=True, slots=True)
class Side:
    """A database under measurement."""

    pool: Backend
    producer: Backend
    claim: str
    finish: str
    claiming: Callable[[int], tuple[object, ...]]

    async def end_jobs(self, batch: int, batches: int) -> float:
        """Seconds of CPU a job for claim and finish."""
        return await claim_and_finish(
            self.pool, self.claim, self.finish, finish_arguments, batch, batches, self.claiming
        )

    async def insert_singly(self) -> float:
        """Seconds of CPU an INSERT, in one transaction: the commit, whose cost depends on the disk, is not measured."""
        async with self.producer.connection.transaction():
            before = self.producer.spent()
            for _ in range(INSERTS):
                await self.producer.connection.fetch(INSERT)
            spent = self.producer.spent() - before
        return spent / INSERTS


async def measure_free(run: Run, before: Before) -> None:
    """Measures the sides in turn, many times a round. The twin, like the side before, shows what noise does."""
    stage = f"{before.scenario}, if unused"
    if run.restore(stage):
        return
    async with AsyncExitStack() as stack:
        sides = {name: await stack.enter_async_context(_side(run, before, name)) for name in (BEFORE, NOW, TWIN)}
        await _measured(sides, 1)  # prepares statements, fills caches
        async for _ in run.rounds(stage):
            spent = await _measured(sides, turns(run, TURNS, TURNS_LONG))
            for what in dict.fromkeys(what for what, _ in spent):
                _note(run, before, what, spent)


def _note(run: Run, before: Before, what: str, spent: Spent) -> None:
    """Adds rates, jobs a second of CPU: the ratio is then the time before by the time now."""
    for name, side, target in ((what, NOW, at_least(before.aim)), (f"{what}, before again", TWIN, None)):
        measure = Measure(before.scenario, name, "jobs/CPU s", "before", target)
        run.add(measure, 1 / spent[what, side], 1 / spent[what, BEFORE])


async def _measured(sides: Mapping[str, Side], count: int) -> Spent:
    """The medians of `count` turns. Each turn begins with another side."""
    seen = defaultdict[tuple[str, str], list[float]](list)
    names = list(sides)
    for side in sides.values():
        await load_anew(side.producer.connection, count * sum(batch * batches for batch, batches in BATCHES))
    for turn in range(count):
        in_turn = [*names[turn % len(names) :], *names[: turn % len(names)]]
        for batch, batches in BATCHES:
            for name in in_turn:
                seen[f"unused, claim + finish by {batch}", name].append(await sides[name].end_jobs(batch, batches))
        for name in in_turn:
            seen["unused, INSERT", name].append(await sides[name].insert_singly())
    return {of: statistics.median(values) for of, values in seen.items()}


@asynccontextmanager
async def _side(run: Run, before: Before, name: str) -> AsyncIterator[Side]:
    async with run.ground.database(is_empty=name != NOW) as url:
        if name != NOW:
            async with connected(url) as connection:
                await migrate_until(connection, before.version)
        await register(url)
        async with (
            backend(run, url, session_settings(is_durable=False)) as pool,
            backend(run, url) as producer,
        ):
            if name == NOW:
                yield Side(pool, producer, statement("claim"), statement("finish"), claim_arguments)
            else:
                yield Side(pool, producer, before.claim, before.finish, claim_arguments_before_lanes)


async def migrate_until(connection: Connection, version: int) -> None:
    """Gives an empty database the schema of an earlier version."""
    for migration in migrations():
        if migration.version <= version:
            await connection.execute(migration.sql)
