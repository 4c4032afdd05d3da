"""What people ask of the queue by hand: lists, one job, and the functions that change something."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pushq.database.migrate import check_schema, refuse_hidden
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.errors import DatabaseTrouble, PayloadError, UnexpectedState, UsageError, ValueRefused
from pushq.job import NewJob
from pushq.queue import Queue

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs to list; None: any. is_unknown: only queued jobs whose task no supervisor has ever known."""

    status: str | None = None
    queue: str | None = None
    task: str | None = None
    is_unknown: bool = False


# Nothing here is asked twice, and what is depends on which filters are given.
_PLANS = {"enable_seqscan": "on", "enable_hashjoin": "on", "plan_cache_mode": "auto"}


class Desk:
    """A session for one command."""

    def __init__(self, session: Session, url: str | None = None) -> None:
        self._session = session
        self._url = url

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str | None) -> AsyncIterator[Self]:
        """Raises DatabaseTrouble, UsageError for a refused value, and SchemaError.

        The schema is looked at only when something proves to be missing: a producer may insert, and not look.
        """
        session = Session(url, "pushq", deadline=60, settings=_PLANS)
        try:
            yield cls(session, url)
        except ValueRefused as error:
            raise UsageError(f"The database refused it: {error}.") from None
        except PayloadError as error:
            raise UsageError(str(error)) from None
        except UnexpectedState as error:
            if error.state.startswith("42"):  # a name that does not exist
                await check_schema(url)
            raise
        finally:
            await session.close()

    async def instant(self, seconds: float) -> datetime:
        """So many seconds from now, by the database's clock: that of our host may be wrong."""
        (row,) = await self._session.fetch("select now() + $1::float8 * interval '1 second' as instant", seconds)
        return row["instant"]  # type: ignore[no-any-return]

    async def insert(self, job: NewJob) -> UUID | None:
        return await Queue().insert(job, connection=self._session)

    async def why_it_waits(self, task: str, queue: str) -> str | None:
        """Why nobody would run such a job now, as a sentence; None: somebody would, or we may not look."""
        try:
            (row,) = await self._session.fetch(statement("prospects"), task, queue, deadline=2.0)
        except DatabaseTrouble:  # a producer may insert, and not look; and the job is there by now
            return None
        if row["is_paused"]:
            return f"queue {queue!r} is paused; `pushq queues resume {shlex.quote(queue)}` lets it go on"
        if queue in row["served_knowingly"]:
            return None
        if not row["is_known"]:
            return f"no supervisor has ever known a task {task!r}" + _did_you_mean(task, row["known"])
        if not row["served"]:
            return "no supervisor is alive"
        if row["served_knowingly"]:
            return f"those who know task {task!r} serve other queues: {', '.join(row['served_knowingly'])}"
        return f"no supervisor that is alive knows task {task!r}"

    async def list_jobs(self, wanted: Filter, limit: int) -> list[Row]:
        """A job's columns but payload and result, and task_is_known and queue_is_paused; the newest first."""
        asked = (wanted.status, wanted.queue, wanted.task, wanted.is_unknown, limit)
        rows = await self._session.fetch(statement("list_jobs"), *asked)
        if not rows:
            await refuse_hidden(self._session, self._url)
        return [dict(row) for row in rows]

    async def find(self, job_id: UUID) -> Row | None:
        """A job's columns, payload and result as JSON text; None: there is none. An id used again: the newest."""
        rows = await self._session.fetch(statement("find_job"), job_id)
        return dict(rows[0]) if rows else None

    async def list_queues(self) -> list[Row]:
        """Rows of queue, queued, running, oldest_seconds, served, paused."""
        rows = await self._session.fetch(statement("list_queues"))
        if not rows:
            await refuse_hidden(self._session, self._url)
        return [dict(row) for row in rows]

    async def change(self, verb: str, what: UUID | str) -> str:
        """Calls pushq.cancel, retry, pause or resume, and returns what it did."""
        assert verb in ("cancel", "retry", "pause", "resume")
        (row,) = await self._session.fetch(f"select pushq.{verb}($1) as did", what)
        return str(row["did"])


def _did_you_mean(name: str, others: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, others, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
