"""Finds jobs by a filter, the newest first, in short statements: no statement reads more than some ten thousand rows.

A job is found by its id, and ids lead back in time. So a search looks at the newest jobs, then at the jobs before them,
and may stop anywhere: the id of the last job looked at is where the next search goes on. Queued and running jobs are
found by the indexes that claims use, unless too many are queued.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import date
from uuid import UUID

from pushq.database.session import Session
from pushq.database.statements import statement

FIRST_LOOK = 1_000
"""Jobs that the first statement of a search looks at."""
LONGEST_LOOK = 20_000
"""Jobs that a statement looks at, at most."""
PACE = 0.015
"""Seconds that a statement may take. The pace of a statement sets the size of the next."""
FEW_QUEUED = 3_000
"""Jobs that the indexes of claims are followed to, at most."""
LINES = 1_000
"""Lines of queued jobs that are looked at, at most: tasks in queues."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of jobs. None: any. is_unknown: only queued jobs whose task no supervisor has ever known."""

    status: str | None = None
    queue: str | None = None
    task: str | None = None
    tenant: str | None = None
    correlation_id: str | None = None
    supervisor: str | None = None
    is_unknown: bool = False

    @property
    def kind(self) -> str:
        """The smallest kind of jobs, among those with an index, that holds every match."""
        if self.is_unknown or self.status in ("queued", "running"):
            return "unfinished"
        kinds = {"failed": "unsuccessful", "cancelled": "unsuccessful", "succeeded": "finished"}
        return kinds.get(self.status or "", "all")

    @property
    def is_its_kind(self) -> bool:
        """Whether nearly every job of the kind matches."""
        return replace(self, status=None) == Filter() and self.status in (None, "queued")

    @property
    def asks_for_a_line(self) -> bool:
        """Whether the indexes of claims lead to the matches."""
        may_be_queued = self.status == "queued" or (self.is_unknown and self.status is None)
        return may_be_queued and not self.is_its_kind and self.supervisor is None


@dataclass(frozen=True, slots=True)
class Page:
    """ids and days: the jobs found; a day is the row's finished_on. looked: how many jobs were looked at.

    last: where a further search goes on, the id of the oldest job looked at. None: no job is left.
    """

    ids: list[UUID] = field(default_factory=list)
    days: list[date] = field(default_factory=list)
    looked: int = 0
    last: UUID | None = None


async def pages(session: Session, wanted: Filter, after: UUID | None, most: int) -> AsyncIterator[Page]:
    """Yields pages until no job is left. after: only jobs with smaller ids. most: jobs on a page, at most.

    Jobs that share an id stay on one page, which may exceed `most` for their sake.
    """
    if wanted.status == "running" and not wanted.is_unknown:
        found = _running(session, wanted, after, most)
    else:
        found = _queued_or_newest(session, wanted, after, most)
    async for page in found:
        yield page


async def _running(session: Session, wanted: Filter, after: UUID | None, most: int) -> AsyncIterator[Page]:
    while True:
        rows = await session.fetch(
            statement("find_running"),
            wanted.queue, wanted.task, wanted.tenant, wanted.correlation_id, wanted.supervisor, after, most,
        )  # fmt: skip
        after = rows[-1]["id"] if len(rows) == most else None
        yield Page([row["id"] for row in rows], [row["finished_on"] for row in rows], len(rows), after)
        if after is None:
            return


async def _queued_or_newest(session: Session, wanted: Filter, after: UUID | None, most: int) -> AsyncIterator[Page]:
    if wanted.asks_for_a_line:
        while page := await _queued(session, wanted, after, most):
            yield page
            after = page.last
            if after is None:
                return
    look = min(most if wanted.is_its_kind else max(FIRST_LOOK, most), LONGEST_LOOK)
    while True:
        began = time.monotonic()
        page = await _newest(session, wanted, after, look, most)
        look = _next_look(look, time.monotonic() - began)
        yield page
        after = page.last
        if after is None:
            return


def _next_look(look: int, took: float) -> int:
    """How many jobs to look at next, when the last look took so many seconds: at most four times as many."""
    return max(FIRST_LOOK, min(LONGEST_LOOK, 4 * look, round(look * PACE / max(took, 0.0001))))


async def _queued(session: Session, wanted: Filter, after: UUID | None, most: int) -> Page | None:
    """A page of queued jobs, or None if too many are queued to be found by the indexes of claims."""
    rows = await session.fetch(
        statement("find_queued"),
        wanted.queue, wanted.task, wanted.tenant, wanted.correlation_id, after, most, wanted.is_unknown,
        FEW_QUEUED, LINES,
    )  # fmt: skip
    if not rows[0]["is_whole"]:
        return None
    found = [row for row in rows if row["id"]]
    last = found[-1]["id"] if len(found) == most else None
    return Page([row["id"] for row in found], [row["finished_on"] for row in found], len(found), last)


async def _newest(session: Session, wanted: Filter, after: UUID | None, look: int, most: int) -> Page:
    rows = await session.fetch(*_look(wanted, after, look, most))
    found = [row for row in rows if row["id"]]
    looked, last = rows[0]["looked"], rows[0]["last"]
    if len(found) >= most:
        last = found[-1]["id"]
    elif looked < look:
        last = None
    return Page([row["id"] for row in found], [row["finished_on"] for row in found], looked, last)


def _look(wanted: Filter, after: UUID | None, look: int, most: int) -> tuple[str, *tuple[object, ...]]:
    """The statement of a look, and its arguments."""
    if wanted.kind == "unsuccessful" and wanted.task is not None:
        return (
            statement("find_unsuccessful"),
            wanted.status, wanted.queue, wanted.task, wanted.tenant, wanted.correlation_id, after, look, most,
            wanted.supervisor,
        )  # fmt: skip
    return (
        statement("find_newest"),
        wanted.kind, wanted.status, wanted.queue, wanted.task, wanted.tenant, wanted.correlation_id, after, look, most,
        wanted.supervisor, wanted.is_unknown,
    )  # fmt: skip
