"""The queue by hand: lists of jobs and queues, one job, and the functions that change jobs and queues."""

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
    """Which jobs to list. None: any. is_unknown: only queued jobs whose task no supervisor has ever known."""

    status: str | None = None
    queue: str | None = None
    task: str | None = None
    is_unknown: bool = False


# No statement is run twice, and the best plan depends on the filters.
_PLANS = {"enable_seqscan": "on", "enable_hashjoin": "on", "plan_cache_mode": "auto"}


class Desk:
    """A session for one command."""

    def __init__(self, session: Session, url: str | None = None) -> None:
        self._session = session
        self._url = url

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str | None) -> AsyncIterator[Self]:
        """Opens a session. Inside the block, raises DatabaseTrouble, UsageError for a refused value, and SchemaError.

        The schema is checked only when a name is missing, since a producer may insert without the right to check.
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
        """The instant `seconds` from now, by the database's clock. The clock of this host may be wrong."""
        (row,) = await self._session.fetch("select now() + $1::float8 * interval '1 second' as instant", seconds)
        return row["instant"]  # type: ignore[no-any-return]

    async def insert(self, job: NewJob) -> UUID | None:
        return await Queue().insert(job, connection=self._session)

    async def why_it_waits(self, task: str, queue: str) -> str | None:
        """Why no supervisor would run a job of the task now. None: a supervisor would, or the role may not look."""
        try:
            (row,) = await self._session.fetch(statement("prospects"), task, queue, deadline=2.0)
        except DatabaseTrouble:  # a producer may lack the right to look, and the job is inserted by now
            return None
        if row["is_paused"]:
            return f"queue {queue!r} is paused; `pushq queues resume {shlex.quote(queue)}` lets it go on"
        if queue in row["served_with_task"]:
            return None
        if not row["is_known"]:
            return f"no supervisor has ever known a task {task!r}" + _did_you_mean(task, row["known"])
        if not row["served"]:
            return "no supervisor is alive"
        if row["served_with_task"]:
            return f"the supervisors that know task {task!r} serve other queues: {', '.join(row['served_with_task'])}"
        return f"no live supervisor knows task {task!r}"

    async def list_jobs(self, wanted: Filter, limit: int) -> list[Row]:
        """Jobs as rows, the newest first: all columns except payload and result; task_is_known, queue_is_paused."""
        asked = (wanted.status, wanted.queue, wanted.task, wanted.is_unknown, limit)
        rows = await self._session.fetch(statement("list_jobs"), *asked)
        if not rows:
            await refuse_hidden(self._session, self._url)
        return [dict(row) for row in rows]

    async def find(self, job_id: UUID) -> Row | None:
        """A job's columns, payload and result as JSON text. None: no such job. Of jobs that share an id, the newest."""
        rows = await self._session.fetch(statement("find_job"), job_id)
        return dict(rows[0]) if rows else None

    async def list_queues(self) -> list[Row]:
        """Rows of queue, queued, running, oldest_seconds, served, paused."""
        rows = await self._session.fetch(statement("list_queues"))
        if not rows:
            await refuse_hidden(self._session, self._url)
        return [dict(row) for row in rows]

    async def change(self, verb: str, what: UUID | str) -> str:
        """Calls pushq.cancel, retry, pause or resume. Returns the function's answer, such as "cancelled"."""
        assert verb in ("cancel", "retry", "pause", "resume")
        (row,) = await self._session.fetch(f"select pushq.{verb}($1) as did", what)
        return str(row["did"])


def _did_you_mean(name: str, others: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, others, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
