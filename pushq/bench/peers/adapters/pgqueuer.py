"""PgQueuer, over asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries


async def set_up(url: str) -> None:
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()  # `pgq autovac`, the first point of the checklist of its performance tuning
    await connection.close()


@asynccontextmanager
async def working(url: str, configuration: Mapping[str, Any], tally: Any) -> AsyncIterator[None]:
    pgqueuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))

    @pgqueuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        tally.executed()

    @pgqueuer.entrypoint("stamp")
    async def stamp(job: Job) -> None:
        tally.picked_up(int(job.payload))

    async with asyncio.TaskGroup() as group:
        group.create_task(pgqueuer.run(**configuration))
        yield
        pgqueuer.shutdown.set()


class Producer:
    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._queries = Queries(AsyncpgPoolDriver(pool))

    async def enqueue(self, task: str, number: int) -> None:
        await self._queries.enqueue(task, b"%d" % number)

    async def enqueue_many(self, count: int, call: str | None) -> None:
        await self._queries.enqueue(*_jobs(count))

    async def burst(self, count: int) -> Callable[[], Awaitable[None]]:
        connection = await self._pool.acquire()
        transaction = connection.transaction()
        await transaction.start()
        await Queries(AsyncpgDriver(connection)).enqueue(*_jobs(count))
        await connection.execute("analyze")

        async def commit() -> None:
            await transaction.commit()
            await self._pool.release(connection)

        return commit


def _jobs(count: int) -> tuple[list[str], list[bytes | None], list[int]]:
    return ["noop"] * count, [b"%d" % number for number in range(count)], [0] * count


@asynccontextmanager
async def producing(url: str, clients: int) -> AsyncIterator[Producer]:
    async with asyncpg.create_pool(url, min_size=clients, max_size=clients, reset=_keep_as_it_is) as pool:
        yield Producer(pool)


async def _keep_as_it_is(_: object) -> None:
    """By default, each return to the pool costs a round trip for a reset, which the pools of the others do not do."""
