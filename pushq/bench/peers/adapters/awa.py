"""awa, by its Python client, whose engine is in Rust."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from awa import AsyncClient

QUEUE = "default"
CHUNK = 1_000
"""Jobs a statement of a burst."""


@dataclasses.dataclass
class Noop:
    number: int


@dataclasses.dataclass
class Stamp:
    number: int


TASKS = {"noop": Noop, "stamp": Stamp}


async def set_up(url: str) -> None:
    async with AsyncClient(url) as client:
        await client.migrate()

        @client.task(Noop, queue=QUEUE)
        async def noop(job: Any) -> None: ...

        await client.start([(QUEUE, 1)])  # the first worker of a new schema switches it to its final storage
        await client.shutdown()


@asynccontextmanager
async def working(url: str, configuration: Mapping[str, Any], tally: Any) -> AsyncIterator[None]:
    queue = {"name": QUEUE, **configuration["queue"]}
    async with AsyncClient(url, **configuration["client"]) as client:

        @client.task(Noop, queue=QUEUE)
        async def noop(job: Any) -> None:
            tally.executed()

        @client.task(Stamp, queue=QUEUE)
        async def stamp(job: Any) -> None:
            tally.picked_up(job.args.number)

        await client.start([queue], **configuration["start"])
        yield
        await client.shutdown()


class Producer:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def enqueue(self, task: str, number: int) -> None:
        await self._client.insert(TASKS[task](number), queue=QUEUE)

    async def enqueue_many(self, count: int, call: str | None) -> None:
        await self._client.enqueue_many_copy([Noop(number) for number in range(count)], queue=QUEUE)

    async def burst(self, count: int) -> Callable[[], Awaitable[None]]:
        transaction = await self._client.transaction()
        for first in range(0, count, CHUNK):
            jobs = [Noop(number) for number in range(first, min(first + CHUNK, count))]
            await transaction.insert_many(jobs, queue=QUEUE)
        await transaction.execute("analyze")
        return transaction.commit


@asynccontextmanager
async def producing(url: str, clients: int) -> AsyncIterator[Producer]:
    async with AsyncClient(url, clients) as client:
        yield Producer(client)
