"""One who changes the rules of names while jobs run: capacities, rates, bursts and turns; in the end all are set back.

Theory of operation. A claim that has counted by an old rule may be committed after the new one. So after each change
the ruler waits until whoever was at work when the change was committed has ended, and writes a mark into the database's
log: from there on nobody can have counted by the old rule.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from math import inf
from typing import TypeAlias

import anyio

from tests.torture.connections import AWAY, Connection, connected
from tests.torture.needs import RULES
from tests.torture.schedule import QUEUES

PAUSE = 0.4
"""Seconds between two changes, on an average."""
SETTLED = "torture.settled"
"""How a mark begins in the log; the name follows."""

_SET = """
    insert into pushq.resources (name, capacity, rate, burst) values ($1, $2, $3, $4)
    on conflict (name) do update set capacity = excluded.capacity, rate = excluded.rate, burst = excluded.burst"""
_REMOVE = "delete from pushq.resources where name = $1"
_LIMIT = "insert into pushq.queues (name, capacity) values ($1, $2) on conflict (name) do update set capacity = $2"
_SET_TURN = "insert into pushq.queues (name, turn) values ($1, $2) on conflict (name) do update set turn = $2"
_IS_AT_WORK = """
    select exists (
        select from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and xact_start < $1)"""
_MARK = "select pg_logical_emit_message(true, $1, $2)"

Statement: TypeAlias = tuple[str, str, tuple[object, ...]]
"""The name whose rule it changes, the statement, and its arguments."""


class Ruler:
    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._chance = random.Random(f"{seed} rules")
        self._loose_until: dict[str, float] = {}
        self.changes = 0

    async def begin(self) -> None:
        for name, rule in RULES.items():
            await self._insist((name, _SET, (name, *rule)))

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await anyio.sleep(self._chance.uniform(0, 2 * PAUSE))
            await self._insist(self._draw())
            self.changes += 1

    async def set_back(self) -> None:
        """All rules as in the beginning, and no queue with a limit."""
        await self.begin()
        for queue in QUEUES:
            await self.limit(queue, None)
            await self._insist((f"queue:{queue}", _SET_TURN, (queue, timedelta(milliseconds=50))))

    async def set(self, name: str, capacity: int | None, rate: float | None = None, burst: int = 1) -> None:
        await self._insist((name, _SET, (name, capacity, rate, burst)))

    async def limit(self, queue: str, capacity: int | None) -> None:
        await self._insist((f"queue:{queue}", _LIMIT, (queue, capacity)))

    def has_just_changed(self, name: str, since: float) -> bool:
        """Whether at some time since that instant somebody may have gone by an older rule of the name."""
        return self._loose_until.get(name, 0.0) >= since

    def _draw(self) -> Statement:
        chance, queue = self._chance, self._chance.choice([*QUEUES])
        changes: dict[Callable[[], Statement], int] = {
            lambda: _rule("oven", chance.choice((0, 1, 2, 3, None))): 3,
            lambda: _rule("crane", chance.choice((0, 2, 3, 4))): 3,
            lambda: _rule("dock", chance.choice((0, 3, 4, 6))): 3,
            lambda: _rule(
                "mint", chance.choice((None, 2)), chance.choice((4.0, 8.0, 16.0)), chance.choice((2, 3, 6))
            ): 2,
            lambda: ("mint", _REMOVE, ("mint",)): 1,
            lambda: _rule(
                "press", chance.choice((None, 1, 2)), chance.choice((None, 3.0, 6.0)), chance.choice((1, 2))
            ): 2,
            lambda: ("press", _REMOVE, ("press",)): 1,
            lambda: (f"queue:{queue}", _LIMIT, (queue, chance.choice((None, None, 2, 5)))): 2,
            lambda: (
                f"queue:{queue}",
                _SET_TURN,
                (queue, timedelta(milliseconds=chance.choice((0, 50, 1000)))),
            ): 2,
        }
        return chance.choices([*changes], [*changes.values()])[0]()

    async def _insist(self, change: Statement) -> None:
        """Until it is done for certain, and nobody goes by the old rule. Twice is as good as once."""
        name, statement, arguments = change
        self._loose_until[name] = inf
        while True:
            with suppress(*AWAY):
                async with connected(self._url) as connection:
                    await connection.execute(statement, *arguments)
                    await _settle(connection)
                    await connection.execute(_MARK, SETTLED, name)
                    break
            await anyio.sleep(0.05)
        self._loose_until[name] = time.monotonic()


def _rule(name: str, capacity: int | None, rate: float | None = None, burst: int = 1) -> Statement:
    return name, _SET, (name, capacity, rate, burst)


async def _settle(connection: Connection) -> None:
    """Returns when all transactions of this moment have ended."""
    now = await connection.fetchval("select clock_timestamp()")
    while await connection.fetchval(_IS_AT_WORK, now):  # noqa: ASYNC110 - that others end is no event of ours
        await anyio.sleep(0.02)
