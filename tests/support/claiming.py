"""Claims without a pool: a session as a pool's is, and what its statements take and read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from uuid import UUID, uuid4

from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.pool.store import Claimant, Terms
from tests.support.jobs import Connection, insert
from tests.support.store import Store

CLAIMANT = Claimant("anna", 1, ("default", "bulk", "paused"), ("mail", "report", "sms"))


@dataclass
class Claiming:
    """A session as a pool's is, whose plans are made, and how much its statements read."""

    session: Session

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, connection: Connection) -> AsyncIterator[Claiming]:
        await connection.execute(
            "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
            "values ('anna', 'here', 1, '1 hour', now() + interval '1 hour')"
        )
        await connection.execute("insert into pushq.queues (name, paused_at) values ('paused', now())")
        await connection.execute("alter table pushq.jobs_unfinished set (autovacuum_enabled = off)")
        pool = cls(Session(url, "test"))
        # Plans are made while the table is empty, with each of the indexes in use.
        await insert(connection, "mail")
        await insert(connection, "mail", priority=-1)
        await insert(connection, "mail", priority=1)
        await pool.claim(10)
        await pool.look()
        yield pool
        await pool.session.close()

    async def claim(self, limit: int) -> list[UUID]:
        return [job.id for job in await Store(self.session).claim(CLAIMANT, uuid4(), limit)]

    async def claim_reads(self, limit: int) -> int:
        """How many buffers a claim reads."""
        explain = "explain (analyze, buffers, format json) " + statement("claim")
        arguments = (
            list(CLAIMANT.queues),
            sorted(CLAIMANT.tasks),
            "anna",
            1,
            uuid4(),
            limit,
            None,
            None,
            *astuple(Terms()),
        )
        ((plan,),) = await self.session.fetch(explain, *arguments)
        return int(json.loads(plan)[0]["Plan"]["Shared Hit Blocks"])

    async def look(self) -> tuple[int, int]:
        """The buffers that an empty claim and a question for the next due time read."""
        queues, tasks = list(CLAIMANT.queues), sorted(CLAIMANT.tasks)
        claim = await self._buffers(
            "claim", queues, tasks, "anna", 1, uuid4(), 10, None, None, 10, True, None, None, None
        )
        return claim, await self._buffers("next_due", queues, tasks, "anna", None)

    async def _buffers(self, name: str, *arguments: object) -> int:
        """The second time: the first clears dead entries away, and reads the catalogue."""
        explain = "explain (analyze, buffers, timing off, format json) " + statement(name)
        for _ in range(2):
            ((plan,),) = await self.session.fetch(explain, *arguments)
        top = json.loads(plan)[0]["Plan"]
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
