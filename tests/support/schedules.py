"""Schedules as a plain SQL client writes them, and a supervisor's part that keeps them, in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import anyio

from pushq.database.session import Session
from pushq.supervisor.schedules import Schedules
from pushq.supervisor.store import Store
from tests.support.jobs import Connection
from tests.support.waiting import eventually


async def write(connection: Connection, name: str, **columns: Any) -> Any:
    """Inserts a schedule of task `echo`, hourly unless columns say else. Returns its row."""
    given = {"name": name, "task": "echo"} | columns
    if "every" not in given:
        given.setdefault("cron", "0 * * * *")
    values = ", ".join(f"${place}" for place in range(1, len(given) + 1))
    names = ", ".join(given)
    return await connection.fetchrow(
        f"insert into pushq.schedules ({names}) values ({values}) returning *", *given.values()
    )


async def row_of(connection: Connection, name: str) -> Any:
    return await connection.fetchrow("select * from pushq.schedules where name = $1", name)


async def fall_due(connection: Connection, name: str, ago: str = "0 seconds") -> datetime:
    """Moves time: the next slot of the schedule is that long ago. Returns the slot."""
    slot: datetime = await connection.fetchval(
        "update pushq.schedules set next_at = date_trunc('minute', now()) - $2::text::interval where name = $1 "
        "returning next_at",
        name,
        ago,
    )
    return slot


async def has_next(connection: Connection, name: str) -> Any:
    """The schedule's row, once its next slot is computed, or it is told why there is none."""

    async def look() -> Any:
        row = await row_of(connection, name)
        return row if row["next_at"] or row["error"] else None

    return await eventually(look)


async def has_error(connection: Connection, name: str) -> str:
    async def look() -> Any:
        return (await row_of(connection, name))["error"]

    return str(await eventually(look))


async def slots_of(connection: Connection, name: str) -> list[datetime]:
    """The slots for which jobs of a schedule were inserted, in the order of the INSERTs."""
    rows = await connection.fetch(
        "select run_at from pushq.jobs where correlation_id = $1 order by id", f"schedule {name}"
    )
    return [row["run_at"] for row in rows]


async def have_slots(connection: Connection, name: str, count: int = 1, within: float = 10) -> list[datetime]:
    """The slots, once there are so many."""

    async def look() -> list[datetime] | None:
        slots = await slots_of(connection, name)
        return slots if len(slots) >= count else None

    return await eventually(look, within=within) or []


@asynccontextmanager
async def keeping(url: str, *, longest: str = "2s", poll: float = 0.05) -> AsyncIterator[Schedules]:
    """What a supervisor does about schedules, which looks every `poll` seconds, and hears no bell."""
    settings = {"statement_timeout": longest}
    shared, own = Session(url, "test: jobs"), Session(url, "test: schedules", deadline=5.0, settings=settings)
    schedules = Schedules(Store(shared), Store(own), own, poll_interval=poll, hears=lambda: True)
    schedules.ring()
    try:
        async with anyio.create_task_group() as around:
            around.start_soon(schedules.run)
            yield schedules
            around.cancel_scope.cancel()
    finally:
        for session in (shared, own):
            await session.close()
