"""Finished jobs of the past, and sweeps that purge them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from pushq.database.session import Session
from pushq.sweeper import Sweeper
from tests.support.jobs import Connection
from tests.support.store import Store

A_WEEK = 604800.0


async def finish_in_the_past(
    connection: Connection, count: int = 1, *, ago: timedelta, day: date | None = None, **columns: Any
) -> list[UUID]:
    """Inserts jobs that ended so long ago. day: in whose partition they lie; None: in today's."""
    given = {"task": "echo", "status": "succeeded"} | columns
    names = ", ".join(given)
    values = ", ".join(f"${number}" for number in range(4, len(given) + 4))
    rows = await connection.fetch(
        f"insert into pushq.jobs ({names}, finished_at, finished_on) "
        f"select {values}, now() - $1::interval, coalesce($2, pushq.current_day()) from generate_series(1, $3) "
        "returning id",
        ago,
        day,
        count,
        *given.values(),
    )
    return [row["id"] for row in rows]


@asynccontextmanager
async def sweeping(url: str, *, retention: float = A_WEEK) -> AsyncIterator[Sweeper]:
    session = Session(url, "test")
    yield Sweeper(Store(session), retention=retention)
    await session.close()


async def swept(url: str, *, retention: float = A_WEEK) -> int:
    """How many jobs one sweep of a new sweeper purges. Nothing may hinder it."""
    async with sweeping(url, retention=retention) as sweeper:
        done = await sweeper.sweep()
    assert not done.troubles, done.troubles
    return done.purged
