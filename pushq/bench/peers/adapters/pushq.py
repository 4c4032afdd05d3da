"""pushq: a real supervisor, and plain INSERTs over asyncpg where the others use their own clients."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg

from pushq import Queue
from pushq.bench.peers.tasks import JOBS, TALLY, noop
from pushq.bench.supervisors import RunningSupervisor
from pushq.database.migrate import migrate
from pushq.local.supervisor import supervising

INSERT = "insert into pushq.jobs (task, payload) values ($1, jsonb_build_object('number', $2::int))"


async def set_up(url: str) -> None:
    await migrate(url)


@asynccontextmanager
async def working(url: str, configuration: Mapping[str, Any], tally: Any) -> AsyncIterator[None]:
    os.environ |= {TALLY: tally.path, JOBS: str(tally.jobs)}
    with supervising(url, "pushq.bench.peers.tasks:tasks", *configuration["flags"]) as (process, port):
        await RunningSupervisor(process, port).wait_ready()
        yield
        process.terminate()
        await anyio.to_thread.run_sync(process.wait)


class Producer:
    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._queue = Queue()

    async def enqueue(self, task: str, number: int) -> None:
        await self._pool.execute(INSERT, task, number)

    async def enqueue_many(self, count: int, call: str | None) -> None:
        jobs = (noop.job(number=number) for number in range(count))
        async with self._pool.acquire() as connection:
            if call == "copy":
                await self._queue.copy(jobs, connection=connection)
            else:
                await self._queue.insert_many(jobs, connection=connection)

    async def burst(self, count: int) -> Callable[[], Awaitable[None]]:
        connection = await self._pool.acquire()
        transaction = connection.transaction()
        await transaction.start()
        await self._queue.copy((noop.job(number=number) for number in range(count)), connection=connection)
        await connection.execute("analyze")

        async def commit() -> None:
            await transaction.commit()
            await self._pool.release(connection)

        return commit


@asynccontextmanager
async def producing(url: str, clients: int) -> AsyncIterator[Producer]:
    async with asyncpg.create_pool(url, min_size=clients, max_size=clients, reset=_keep_as_it_is) as pool:
        yield Producer(pool)


async def _keep_as_it_is(_: object) -> None:
    """By default, each return to the pool costs a round trip for a reset, which the pools of the others do not do."""
