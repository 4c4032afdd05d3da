"""A client that listens: when notifications arrive, by this process's clock and by the server's."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pushq.bench.connection import Connection, connected
from pushq.bench.waiting import wait_until

CHANNEL = "pushq_bench"
SECONDS_TO_HEAR = 10.0
BARE = "a bare NOTIFY"
LOOKS = 20

Heard = dict[str, float]
"""Payload → time.monotonic() of the arrival."""


@asynccontextmanager
async def hearing(url: str) -> AsyncIterator[Heard]:
    """What arrives on CHANNEL for the length of the block."""
    heard: Heard = {}

    def hear(*said: object) -> None:
        heard[str(said[-1])] = time.monotonic()

    async with connected(url) as connection:
        await connection.add_listener(CHANNEL, hear)
        yield heard


async def wait_heard(heard: Heard, count: int) -> None:
    """Waits until `count` notifications have arrived. Raises PushqError if one was lost."""

    async def all_have_arrived() -> bool:
        return len(heard) >= count

    await wait_until(all_have_arrived, f"{count} notifications were not heard", within=SECONDS_TO_HEAR, every=0.002)


async def notify(connection: Connection, heard: Heard) -> float:
    """Milliseconds of a bare notification, from the call to the arrival."""
    heard.clear()
    began = time.monotonic()
    await connection.fetchval("select pg_notify($1, 'bare')", CHANNEL)
    await wait_heard(heard, 1)
    return 1000 * (heard.pop("bare") - began)


async def ahead(connection: Connection) -> float:
    """How many seconds the server's clock, in seconds since 1970, is ahead of time.monotonic().

    Of several looks, the quickest tells best.
    """
    looks: list[tuple[float, float]] = []
    for _ in range(LOOKS):
        began = time.monotonic()
        there = await connection.fetchval("select extract(epoch from clock_timestamp())::float8")
        took = time.monotonic() - began
        looks.append((took, there - began - took / 2))
    return min(looks)[1]
