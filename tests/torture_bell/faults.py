"""The faults: pools are killed, supervisors stopped, connections cut, the server restarted; and whether it bit."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID, uuid4

import anyio
from anyio import to_thread

from pushq.local.server import EmbeddedServer
from tests.support.waiting import eventually
from tests.torture_bell.inserters import AWAY, INSERT, Connections
from tests.torture_bell.ledger import Entry, Ledger
from tests.torture_bell.stage import PARTS, QUEUES, Part, Supervisors
from tests.torture_bell.watch import Grace

PAUSE = (8.0, 16.0)
"""Seconds between two faults; every fourth restarts the server."""
RECOVERED_WITHIN = 40.0
"""Seconds after which pushq must work again."""

CONNECTIONS = "select pid from pg_stat_activity where application_name ~ '^pushq pool .*: (listens|claims)$'"


class Faults:
    """`done` and `bit` by kind; `unrecovered`: those after which it did not work again in time."""

    def __init__(
        self,
        server: EmbeddedServer,
        supervisors: Supervisors,
        ledger: Ledger,
        grace: Grace,
        chance: random.Random,
    ) -> None:
        self._server = server
        self._supervisors = supervisors
        self._connections: Connections
        self._ledger = ledger
        self._grace = grace
        self._chance = chance
        self.done = Counter[str]()
        self.bit = Counter[str]()
        self.unrecovered: list[str] = []

    async def run(self, connections: Connections, curtain: anyio.Event) -> None:
        """One after the other, each until pushq has recovered from it, until the curtain falls."""
        self._connections = connections
        small = {"pool killed": self._kill_pool, "supervisor replaced": self._replace, "connection cut": self._cut}
        large = {"restart, fast": self._restart, "restart, immediate": self._crash}
        while True:
            for kinds in (small, small, small, large):
                with anyio.move_on_after(self._chance.uniform(*PAUSE)):
                    await curtain.wait()
                if curtain.is_set():
                    return
                kind = self._chance.choice(list(kinds))
                await self._commit(kind, kinds[kind])

    async def _commit(self, kind: str, fault: Callable[[], Awaitable[bool]]) -> None:
        self._grace.begin()
        self.done[kind] += 1
        self.bit[kind] += await fault()
        try:
            await eventually(self._are_ready, within=RECOVERED_WITHIN)
            canaries = [await self._insert_canary(queue) for queue in QUEUES]
            await eventually(lambda: self._have_run(canaries), within=RECOVERED_WITHIN)
        except AssertionError as error:
            self.unrecovered.append(f"{kind}: {error}")
        self._grace.end()

    async def _kill_pool(self) -> bool:
        supervisor = self._supervisors[self._some_part()]
        victim = supervisor.pools[0]
        os.kill(victim, signal.SIGKILL)

        async def is_gone() -> bool:
            return victim not in supervisor.pools

        return await eventually(is_gone)

    async def _replace(self) -> bool:
        await to_thread.run_sync(self._supervisors.scrape)
        return await to_thread.run_sync(self._supervisors.replace, self._some_part()) == 0

    async def _cut(self) -> bool:
        with suppress(*AWAY):
            async with self._connections.acquire() as connection:
                victims = sorted(row["pid"] for row in await connection.fetch(CONNECTIONS))
                victim = self._chance.choice(victims)
                await connection.fetchval("select pg_terminate_backend($1, 5000)", victim)
                return victim not in {row["pid"] for row in await connection.fetch(CONNECTIONS)}
        return False

    async def _restart(self) -> bool:
        # In this thread, with whose end the server ends; everything else may wait meanwhile.
        before = self._server.process.pid
        self._server.restart()
        return self._server.process.pid != before

    async def _crash(self) -> bool:
        before = self._server.process.pid
        self._server.restart(crash=True)
        return self._server.process.pid != before

    def _some_part(self) -> Part:
        return self._chance.choice(PARTS)

    # Recovery -------------------------------------------------------------------------------------------------

    async def _are_ready(self) -> bool:
        return await to_thread.run_sync(self._supervisors.are_ready)

    async def _insert_canary(self, queue: str) -> UUID:
        """A job like any other; pushq has recovered when one of each queue has run."""
        while True:
            canary = uuid4()
            self._ledger.open(canary, Entry("canary", queue, is_plain=False))
            with suppress(*AWAY):
                async with self._connections.acquire() as connection:
                    await connection.execute(INSERT, canary, "bell.nothing", "{}", queue, None)
                self._ledger.announce([canary])
                return canary
            await anyio.sleep(0.1)

    async def _have_run(self, canaries: list[UUID]) -> bool:
        finished = "select count(*) from pushq.jobs where id = any($1) and finished_on < 'infinity'"
        with suppress(*AWAY):
            async with self._connections.acquire() as connection:
                return bool(await connection.fetchval(finished, canaries) == len(canaries))
        return False
