"""The inserters: every way to commit a job, at instants that are drawn to fall where a wake-up could be lost."""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias
from uuid import UUID

import anyio
import asyncpg

from tests.torture_bell.conductor import Conductor
from tests.torture_bell.ledger import Entry, Ledger
from tests.torture_bell.stage import rivals_of, workers_of

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Connections: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Connection = Connections = object

Isolation = Literal["read_committed", "repeatable_read", "serializable"]
ISOLATIONS: tuple[Isolation, ...] = ("read_committed", "repeatable_read", "serializable")
LINGER = 0.03
"""Seconds for which all of a pool's workers are busy before it shuts its gates."""

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
)
"""The database is being hurt: what was not answered stays in doubt."""

INSERT = "insert into pushq.jobs (id, task, payload, queue, run_at) values ($1, $2, $3, $4, coalesce($5, now()))"


class RolledBack(Exception):
    """Ends a transaction, or a part of one, on purpose."""


class Inserter:
    """Inserts into one queue, in bursts with pauses between. `psql` is the command without the statement."""

    def __init__(
        self,
        queue: str,
        chance: random.Random,
        connections: Connections,
        ledger: Ledger,
        conductor: Conductor,
        psql: Sequence[str],
    ) -> None:
        self._queue = queue
        self._chance = chance
        self._connections = connections
        self._ledger = ledger
        self._conductor = conductor
        self._psql = psql
        self._finished = deque[UUID](maxlen=50)

    async def run(self, curtain: anyio.Event) -> None:
        """Inserts until the curtain falls, and ends what it has begun."""
        acts, weights = zip(*ACTS.items(), strict=True)
        while not curtain.is_set():
            await self._pause(self._chance.choice((0.1, 0.5)))
            await self._conductor.wait_cue()
            (act,) = self._chance.choices(acts, weights)
            with suppress(*AWAY):
                await act(self)

    @property
    def queue(self) -> str:
        return self._queue

    async def solo(self) -> None:
        """While no neighbour inserts, so that no ring of theirs covers what is lost."""
        with suppress(*AWAY):
            act = self._chance.choices((self.around_an_opening, self.flurry, self.pair), (8, 2, 1))[0]
            await act()

    # Acts -----------------------------------------------------------------------------------------------------

    async def burst(self) -> None:
        """One to five, each committed by itself."""
        for _ in range(self._chance.randint(1, 5)):
            async with self._connections.acquire() as connection:
                self._ledger.announce([await self._insert(connection, "autocommit")])
            await self._pause(self._chance.choice((0.0, 0.006, 0.1)))

    async def pair(self) -> None:
        """The second commits while the first has just woken the pool, or when it is about to sleep again."""
        async with self._connections.acquire() as connection:
            self._ledger.announce([await self._insert(connection, "first of a pair")])
            await self._pause(self._chance.choice((0.004, 0.008)))
            self._ledger.announce([await self._insert(connection, "second of a pair")])

    async def flurry(self) -> None:
        """Many at a time, so that rings come while the pool is at its busiest with others, or just done with them."""
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(self._commit_some, self._chance.randint(1, 4))

    async def transaction(self) -> None:
        isolation = self._chance.choice(ISOLATIONS)
        async with self._connections.acquire() as connection, self._committing(connection, isolation) as jobs:
            jobs.append(await self._insert(connection, isolation.replace("_", " ")))
            await self._pause(self._chance.choice((0.0, 0.01, 0.1)))

    async def late_commit(self) -> None:
        await self._insert_and_wait(self._chance.choices((0.3, 2.0), (9, 1))[0] * self._chance.random())

    async def old_snapshot(self) -> None:
        """It sees the table as it was; the gate it must see as it is."""
        async with self._connections.acquire() as connection, self._committing(connection, "repeatable_read") as jobs:
            await connection.fetchval("select count(*) from pushq.jobs_unfinished")
            await self._pause(0.4)
            jobs.append(await self._insert(connection, "old snapshot"))

    async def savepoint(self) -> None:
        async with self._connections.acquire() as connection, self._committing(connection) as jobs:
            jobs.append(await self._insert(connection, "before a savepoint"))
            with suppress(RolledBack):
                async with connection.transaction():
                    await self._insert_ghost(connection)
            await self._pause(0.02)
            if self._chance.random() < 0.5:
                jobs.append(await self._insert(connection, "after a savepoint"))

    async def roll_back(self, queue: str | None = None) -> None:
        async with self._connections.acquire() as connection:
            with suppress(RolledBack):
                async with connection.transaction():
                    await self._insert_ghost(connection, queue)

    async def many_rows(self) -> None:
        async with self._connections.acquire() as connection:
            jobs = [self._open("many rows") for _ in range(self._chance.randint(2, 5))]
            await connection.execute(
                "insert into pushq.jobs (id, task, queue) select id, 'bell.nothing', $2 from unnest($1::uuid[]) as id",
                jobs,
                self._queue,
            )
            self._ledger.announce(jobs)

    async def copy(self) -> None:
        async with self._connections.acquire() as connection:
            jobs = [self._open("copy") for _ in range(self._chance.randint(1, 5))]
            records = [(job, "bell.nothing", self._queue) for job in jobs]
            await connection.copy_records_to_table(
                "jobs", schema_name="pushq", columns=["id", "task", "queue"], records=records
            )
            self._ledger.announce(jobs)

    async def later(self) -> None:
        async with self._connections.acquire() as connection:
            delays = [self._chance.uniform(0.005, 0.3) for _ in range(self._chance.randint(1, 2))]
            self._ledger.announce([await self._insert(connection, "later", delay=delay) for delay in delays])

    async def snooze(self) -> None:
        async with self._connections.acquire() as connection:
            payload = {"seconds": self._chance.uniform(0.005, 0.2)}
            job = await self._insert(connection, "snoozes once", task="bell.snooze", payload=payload)
            self._ledger.announce([job])

    async def retry(self) -> None:
        """Makes a job that has finished run again."""
        async with self._connections.acquire() as connection:
            self._finished.append(await self._insert(connection, "retried by hand"))
            self._ledger.entries[self._finished[-1]].is_plain = False
            self._ledger.announce([self._finished[-1]])
            await connection.fetchval("select pushq.retry($1)", self._finished[0])

    async def pause_and_resume(self) -> None:
        try:
            async with self._connections.acquire() as connection:
                await connection.execute("select pushq.pause($1)", self._queue)
                job = await self._insert(connection, "while paused")
                self._ledger.entries[job].is_plain = False
                self._ledger.announce([job])
                await self._pause(0.15)
        finally:
            await self._insist("select pushq.resume($1)", self._queue)

    async def two_phases(self) -> None:
        """Prepared in silence, and rung by hand."""
        job = self._open("two phases")
        self._ledger.entries[job].is_plain = False
        try:
            async with self._connections.acquire() as connection:
                await connection.execute(
                    "begin; set local pushq.notify = 'off';"
                    f"insert into pushq.jobs (id, task, queue) values ('{job}', 'bell.nothing', '{self._queue}');"
                    f"prepare transaction '{job}'"
                )
                await self._pause(0.2)
        finally:
            with suppress(asyncpg.UndefinedObjectError):
                await self._insist(f"commit prepared '{job}'")
            await self._insist("select pushq.ring($1)", self._queue)
        self._ledger.announce([job])

    async def plain_text(self) -> None:
        job = self._open("plain text")
        statement = f"insert into pushq.jobs (id, task, queue) values ('{job}', 'bell.nothing', '{self._queue}')"
        if self._chance.random() < 0.1:
            if (await anyio.run_process([*self._psql, statement], check=False)).returncode != 0:
                return
        else:
            async with self._connections.acquire() as connection:
                await connection.execute(statement)
        self._ledger.announce([job])

    async def around_an_opening(self) -> None:
        """Keeps every pool of the queue busy, so that it shuts its gate and opens it again, and inserts around that."""
        naps = self._chance.choice((0.08, 0.15)) * self._chance.uniform(0.6, 1)
        async with self._connections.acquire() as connection, self._committing(connection) as jobs:
            for _ in range(workers_of(self._queue)):
                jobs.append(await self._insert(connection, "nap", task="bell.nap", payload={"seconds": naps}))
        if self._chance.random() < 0.5:
            await self._slip_in_around(LINGER + 0.003, self._chance.choice(rivals_of(self._queue)), naps)
        else:
            await self._slip_in_around(naps + 0.004, self._queue, naps)

    # ----------------------------------------------------------------------------------------------------------

    async def _slip_in_around(self, instant: float, queue: str, naps: float) -> None:
        """A few about then, one after the other or all at once, and sometimes one while the pools are still busy."""
        begin, spread = instant + self._chance.uniform(0, 0.014), self._chance.choice((0.001, 0.014))
        async with anyio.create_task_group() as group:
            for _ in range(self._chance.randint(1, 3)):
                group.start_soon(self._slip_in, queue, begin + self._chance.uniform(0, spread))
            if self._chance.random() < 0.5:
                group.start_soon(self._slip_in, queue, naps * self._chance.uniform(0.6, 1))

    async def _slip_in(self, queue: str, seconds: float) -> None:
        """Inserts then, and commits at once or when a pool may have looked for the last time.

        Or rolls back: one that rings would wake the pool for those that were not to ring.
        """
        await anyio.sleep(seconds)
        with suppress(*AWAY):
            if self._chance.random() < 0.3:
                await self.roll_back(queue)
            else:
                await self._insert_and_wait(self._chance.choice((0.0, 0.01, 0.03)) * self._chance.random(), queue)

    async def _commit_some(self, count: int) -> None:
        with suppress(*AWAY):
            async with self._connections.acquire() as connection:
                for _ in range(count):
                    await self._pause(0.004)
                    self._ledger.announce([await self._insert(connection, "flurry")])

    async def _insert_and_wait(self, seconds: float, queue: str | None = None) -> None:
        async with self._connections.acquire() as connection, self._committing(connection) as jobs:
            jobs.append(await self._insert(connection, "late commit", queue=queue))
            await anyio.sleep(seconds)

    @asynccontextmanager
    async def _committing(
        self, connection: Connection, isolation: Isolation = "read_committed"
    ) -> AsyncIterator[list[UUID]]:
        """A transaction that announces the jobs in the list once its COMMIT has returned."""
        jobs: list[UUID] = []
        async with connection.transaction(isolation=isolation):
            yield jobs
        self._ledger.announce(jobs)

    async def _insert(
        self,
        connection: Connection,
        kind: str,
        *,
        task: str = "bell.nothing",
        payload: dict[str, float] | None = None,
        queue: str | None = None,
        delay: float | None = None,
    ) -> UUID:
        run_at = None if delay is None else datetime.fromtimestamp(time.time() + delay, UTC)
        if payload is None and self._chance.random() < 0.2:
            task, payload = "bell.nap", {"seconds": self._chance.uniform(0.001, 0.008)}
        job = self._open(kind, run_at.timestamp() if run_at else 0.0, queue)
        await connection.execute(INSERT, job, task, json.dumps(payload or {}), queue or self._queue, run_at)
        return job

    async def _insert_ghost(self, connection: Connection, queue: str | None = None) -> None:
        """A job that must never run: whatever happens, its part of the transaction is not committed."""
        job = self._open("rolled back", queue=queue)
        self._ledger.revoke([job])
        await connection.execute(INSERT, job, "bell.nothing", "{}", queue or self._queue, None)
        await self._pause(0.02)
        raise RolledBack

    async def _insist(self, statement: str, *arguments: object) -> None:
        """Says it until it is answered: a queue must not stay paused, nor a transaction prepared."""
        while True:
            with suppress(*AWAY):
                async with self._connections.acquire() as connection:
                    await connection.execute(statement, *arguments)
                return
            await anyio.sleep(0.1)

    def _open(self, kind: str, run_at: float = 0.0, queue: str | None = None) -> UUID:
        job = UUID(int=self._chance.getrandbits(128), version=4)
        self._ledger.open(job, Entry(kind, queue or self._queue, run_at))
        return job

    async def _pause(self, longest: float) -> None:
        await anyio.sleep(longest * self._chance.random())


ACTS: dict[Callable[[Inserter], Awaitable[None]], float] = {
    Inserter.burst: 4,
    Inserter.pair: 3,
    Inserter.flurry: 2,
    Inserter.transaction: 4,
    Inserter.late_commit: 3,
    Inserter.around_an_opening: 6,
    Inserter.old_snapshot: 1,
    Inserter.savepoint: 2,
    Inserter.roll_back: 1,
    Inserter.many_rows: 2,
    Inserter.copy: 1,
    Inserter.later: 2,
    Inserter.snooze: 1,
    Inserter.retry: 1,
    Inserter.pause_and_resume: 1,
    Inserter.two_phases: 1,
    Inserter.plain_text: 1,
}
"""What an inserter does, and how often beside the others."""
