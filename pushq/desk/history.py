"""What happened to jobs: the events of pushq.job_events, as lists, and followed live."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import anyio

from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.errors import DatabaseAway

Row = dict[str, Any]

KINDS = (
    "inserted",
    "claimed",
    "succeeded",
    "failed",
    "cancelled",
    "retried",
    "snoozed",
    "released",
    "detached",
    "requeued",
    "phase",
    "cancelling",
    "edited",
    "deleted",
    "note",
)

FIRST_LOOK = 10_000
"""Transactions whose events the first statement of a list looks at. The next statement looks at ten times as many."""
LARGEST_LOOK = 10_000_000
LOOKS_AGAIN = 0.5
"""Seconds between two looks of a follower."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events. None: any."""

    kinds: Sequence[str] | None = None
    tenant: str | None = None

    @property
    def arguments(self) -> tuple[list[str] | None, str | None]:
        return list(self.kinds) if self.kinds else None, self.tenant


async def events_of(session: Session, job_id: UUID, limit: int) -> list[Row]:
    """The newest events of a job, the oldest first. Rows of events_of_job.sql."""
    return [dict(row) for row in await session.fetch(statement("events_of_job"), job_id, limit)][::-1]


async def newest_events(session: Session, wanted: Wanted, limit: int) -> list[Row]:
    """The newest events, the oldest first. Rows of list_events.sql."""
    look: int | None = FIRST_LOOK
    while True:
        rows = await session.fetch(statement("list_events"), look, *wanted.arguments, limit)
        if len(rows) == limit or look is None:
            return [dict(row) for row in rows][::-1]
        look = look * 10 if look < LARGEST_LOOK else None


async def follow(
    session: Session, wanted: Wanted, limit: int, told: Callable[[str], None] = lambda _: None
) -> AsyncGenerator[list[Row], None]:
    """Yields the newest events, and then events as their transactions commit, each event once.

    Events of one job come in their order. An event that was written more than a day before the first look is not
    followed. Waits while the database is away, which `told` is told. Rows of list_events.sql. Raises DatabaseTrouble
    if the database is away at first, or refuses.
    """
    (row,) = await session.fetch("select now() - interval '1 day' as since")
    look = await _look(session, wanted, None, row["since"])
    newest = await newest_events(session, wanted, limit) if limit else []
    yield newest
    seen = {event["id"] for event in (*look.events, *newest)}
    is_away = False
    while True:
        await anyio.sleep(LOOKS_AGAIN)
        try:
            look = await _look(session, wanted, look.mark, row["since"])
        except DatabaseAway as error:
            if not is_away:
                told(f"{error} Waiting.")
            is_away = True
            continue
        is_away = False
        yield [event for event in look.events if event["id"] not in seen]
        seen = {event["id"] for event in look.events}


@dataclass(frozen=True, slots=True)
class _Look:
    """mark: the oldest transaction that was open, from which the next look goes on."""

    mark: int
    events: list[Row]


async def _look(session: Session, wanted: Wanted, since: int | None, at: datetime) -> _Look:
    rows = await session.fetch(statement("follow_events"), since, *wanted.arguments, at)
    events = [dict(row) for row in rows if row["id"] is not None]
    return _Look(rows[0]["mark"], [{name: row[name] for name in row if name != "mark"} for row in events])
