"""Guests: workers that speak SQL. In a storm some extend their lease, some finish late, and some never come back."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

import anyio
import asyncpg

from tests.torture.connections import AWAY, Connection, connected
from tests.torture.history import Finish, Run
from tests.torture.schedule import ALLOWED, FAILURES_ALLOWED, HOSTS, QUEUES

GUESTS = 3
"""At a time."""
LEASE = 1.2
"""Seconds. A guest that is silent is warned after one lease, and dead after another."""
DEAD_AFTER = 2 * LEASE + 2
"""Seconds of silence after which a job has most likely been taken from a guest."""
TASKS = ["errand", "nothing", "nap", "fail", "fail.once", "large"]
"""The first is known to guests alone."""

_TAKE_NEXT = "select id, attempt, token, failures, max_attempts, task from pushq.take_next($1, $2, $3, $4)"
_ANY_QUEUED = "select id from pushq.jobs_unfinished where status = 'queued' and task = any($1) order by run_at limit 1"
_TAKE = "select pushq.take($1, $2, $3)"
_TAKEN = (
    "select id, attempt, token, failures, max_attempts, task from pushq.jobs_unfinished where id = $1 and token = $2"
)
_EXTEND = "select pushq.extend($1, $2, $3)"
_FINISH = "select pushq.finish($1, $2, $3, $4, $5, '20 milliseconds')"


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that a guest holds. may_fail: how often, still."""

    job: UUID
    attempt: int
    token: UUID
    may_fail: int
    since: float


class Guests:
    """What each does follows from the seed. runs: as those of a host that is one more, each guest a process of it."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._seed = seed
        self.runs: list[Run] = []
        self.finishes: list[Finish] = []
        self.is_storm = True
        self._count = 0
        self._scope: anyio.CancelScope

    async def work(self) -> None:
        """Until told to stop."""
        async with anyio.create_task_group() as group:
            self._scope = group.cancel_scope
            for number in range(GUESTS):
                group.start_soon(self._work, random.Random(f"{self._seed} guest {number}"))

    def stop(self) -> None:
        """Else they would do what hosts that stop leave undone."""
        self._scope.cancel()

    async def _work(self, chance: random.Random) -> None:
        """One after the other: a guest that has lost its connection does not know what it holds, and is no more."""
        while True:
            self._count += 1
            guest = _Guest(self, self._count, chance)
            try:
                with suppress(*AWAY):
                    async with connected(self._url, command_timeout=8) as connection:
                        await guest.work(connection)
            finally:
                guest.die()
            await anyio.sleep(0.05)


Manner: TypeAlias = Callable[[Connection, Taken], Awaitable[bool]]
"""What is done with a job; whether the guest goes on afterwards."""


class _Guest:
    """kept_until: until when at least the database keeps its jobs, by what was answered."""

    def __init__(self, guests: Guests, number: int, chance: random.Random) -> None:
        self._guests = guests
        self._number = number
        self._chance = chance
        self._name = f"torture {number} {chance.getrandbits(64):x}"
        self._held: list[Taken] = []
        self._kept_until = 0.0

    async def work(self, connection: Connection) -> None:
        manners: dict[Manner, int] = {
            self._finish_soon: 12,
            self._extend_and_finish: 2,
            self._take_another_and_finish: 2,
            self._finish_late: 2,
            self._never_come_back: 1,
        }
        if self._chance.random() < 0.1:
            await self._take_any(connection)
        while True:
            if not self._held and not await self._take_next(connection):
                await anyio.sleep(0.2)
                continue
            (manner,) = self._chance.choices(list(manners), list(manners.values()))
            manner = manner if self._guests.is_storm else self._finish_soon
            if not await manner(connection, self._held[0]):
                return

    def die(self) -> None:
        """With what it holds."""
        for taken in self._held:
            self._note_run(taken, is_over=False)
        self._held.clear()

    # What it does with a job ----------------------------------------------------------------------------------

    async def _finish_soon(self, connection: Connection, taken: Taken) -> bool:
        await anyio.sleep(self._chance.uniform(0, 0.2))
        await self._finish(connection, taken)
        return True

    async def _extend_and_finish(self, connection: Connection, taken: Taken) -> bool:
        """Runs it for longer than it would be kept."""
        until = time.monotonic() + DEAD_AFTER
        while time.monotonic() < until:
            await anyio.sleep(LEASE / 3)
            asked_at = time.monotonic()
            if not await connection.fetchval(_EXTEND, taken.job, taken.token, timedelta(seconds=LEASE)):
                self._let_go(taken)
                return False
            self._keep(asked_at)
        await self._finish(connection, taken)
        return True

    async def _take_another_and_finish(self, connection: Connection, _: Taken) -> bool:
        await self._take_next(connection)
        for taken in [*self._held]:
            await self._finish(connection, taken)
        return True

    async def _finish_late(self, connection: Connection, taken: Taken) -> bool:
        await anyio.sleep(DEAD_AFTER)
        await self._finish(connection, taken)
        return False

    async def _never_come_back(self, *_: object) -> bool:
        return False

    # Its calls ------------------------------------------------------------------------------------------------

    async def _take_next(self, connection: Connection) -> bool:
        asked_at = time.monotonic()
        wanted = (self._chance.choice([*QUEUES]), self._name, timedelta(seconds=LEASE), TASKS)
        row = await connection.fetchrow(_TAKE_NEXT, *wanted)
        return self._hold(row, asked_at)

    async def _take_any(self, connection: Connection) -> bool:
        if (job := await connection.fetchval(_ANY_QUEUED, TASKS)) is None:
            return False
        asked_at = time.monotonic()
        token = await connection.fetchval(_TAKE, job, self._name, timedelta(seconds=LEASE))
        return bool(token) and self._hold(await connection.fetchrow(_TAKEN, job, token), asked_at)

    def _hold(self, row: asyncpg.Record | None, asked_at: float) -> bool:
        if row is None:
            return False
        job, attempt, token, failures, most, task = row
        allowed = most or ALLOWED.get(task, FAILURES_ALLOWED)
        self._held.append(Taken(job, attempt, token, allowed - failures, time.monotonic()))
        self._keep(asked_at)
        return True

    def _keep(self, asked_at: float) -> None:
        self._kept_until = asked_at + 2 * LEASE

    async def _finish(self, connection: Connection, taken: Taken) -> None:
        """Says under which claim it ran, as the hosts' handlers do."""
        self._let_go(taken)
        kinds = {
            "succeeded": 12,
            "failed" if taken.may_fail == 1 else "retried": 3,
            "snoozed": 1,
            "released": 1,
            "cancelled": 1,
        }
        (kind,) = self._chance.choices(list(kinds), list(kinds.values()))
        result = json.dumps({"token": str(taken.token)}) if kind == "succeeded" else None
        error = f"as it was told to, under token {taken.token}" if kind in ("failed", "retried") else None
        has_counted: bool | None = None
        try:
            has_counted = await connection.fetchval(_FINISH, taken.job, taken.token, kind, result, error)
        finally:
            self._guests.finishes.append(Finish(taken.job, taken.token, kind, has_counted))

    def _let_go(self, taken: Taken) -> None:
        self._held.remove(taken)
        self._note_run(taken, is_over=True)

    def _note_run(self, taken: Taken, *, is_over: bool) -> None:
        now = time.monotonic()
        self._guests.runs.append(
            Run(
                taken.job,
                taken.attempt,
                HOSTS,
                self._number,
                taken.since,
                now if is_over else None,
                died_at=None if is_over else now,
                token=taken.token,
                kept_until=self._kept_until,
            )
        )
