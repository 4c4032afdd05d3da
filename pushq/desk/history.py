"""What happened to jobs: the events of pushq.job_events, as lists, and followed live."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import anyio

from pushq.database.patience import wait_out
from pushq.database.session import Session
from pushq.database.statements import statement

Row = dict[str, Any]

KINDS = (
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


async def follow(session: Session, wanted: Wanted, limit: int) -> AsyncGenerator[list[Row], None]:
    """Yields the newest events, and then events as their transactions commit, each event once.

    Events of one job come in their order. Waits while the database is away. Rows of list_events.sql.
    """
    look = await _look(session, wanted, None)
    newest = await newest_events(session, wanted, limit) if limit else []
    yield newest
    seen = {row["id"] for row in (*look.events, *newest)}
    while True:
        await anyio.sleep(LOOKS_AGAIN)
        look = await _look(session, wanted, look.mark)
        yield [row for row in look.events if row["id"] not in seen]
        seen = {row["id"] for row in look.events}


@dataclass(frozen=True, slots=True)
class _Look:
    """mark: the oldest transaction that was open, from which the next look goes on."""

    mark: int
    events: list[Row]


async def _look(session: Session, wanted: Wanted, since: int | None) -> _Look:
    rows = await wait_out(lambda: session.fetch(statement("follow_events"), since, *wanted.arguments))
    events = [dict(row) for row in rows if row["id"] is not None]
    return _Look(rows[0]["mark"], [{name: row[name] for name in row if name != "mark"} for row in events])
