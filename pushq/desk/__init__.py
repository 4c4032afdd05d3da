"""The queue by hand: lists of jobs and queues, one job, and the functions that change jobs and queues."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from operator import itemgetter
from typing import Any, Literal, Self
from uuid import UUID

from pushq.database.migrate import check_schema, refuse_hidden
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.desk import history
from pushq.desk.search import LONGEST_LOOK, Filter, pages
from pushq.desk.waiting import why_never, why_not_now
from pushq.errors import DatabaseTrouble, PayloadError, UnexpectedState, UsageError, ValueRefused
from pushq.job import NewJob, Status
from pushq.queue import Enqueued, Queue
from pushq.reading import Artifact, artifacts_of, pieces_of

Row = dict[str, Any]
Place = tuple[UUID, date]
"""A job's id, and the row's finished_on."""


LONGEST_SEARCH = 0.05
"""Seconds after which a list looks no further, unless told to."""
AT_A_TIME = 100
"""Jobs that are changed in one transaction: other sessions that want one of them wait some 20 ms."""
CHANGED = "changed meanwhile"
SHOWN_EVENTS = 1_000
SHOWN_QUEUES = 1_000
SHOWN_WEBHOOKS = 1_000
SHOWN_LIMITS = 1_000
SHOWN_SCHEDULES = 1_000
NEEDS_LOOKED_AT = 10_000
"""Queued jobs with needs that `limits` looks at, to count those that wait for a name."""
STAMPED_AT_ONCE = 1_000
"""Jobs that one statement looks at, and gives the needs that limits say, in up to some 100 ms."""
COUNTED_NOW = 1_000
"""Queued jobs of a queue that `queues` counts itself. The census has counted larger numbers."""

__all__ = ["CHANGED", "COUNTED_NOW", "LONGEST_SEARCH", "PLANS", "Desk", "Filter", "Listing", "Place", "Row"]


@dataclass(slots=True)
class Listing:
    """rows: jobs, the newest first. looked: how many jobs were looked at.

    older: where the list goes on, the id after which older jobs follow. None: the list is at its end.
    """

    rows: list[Row] = field(default_factory=list)
    looked: int = 0
    older: UUID | None = None

    def cut(self, limit: int) -> None:
        """Leaves out what exceeds the limit, except jobs that share an id with the last one."""
        if len(self.rows) > limit:
            last = self.rows[limit - 1]["id"]
            kept = [row for row in self.rows if row["id"] >= last]
            self.older = last if len(kept) < len(self.rows) else self.older
            self.rows = kept


# Plans are made for the filters given. No statement may read a table of jobs as a whole. Rows come in the order of an
# index, so that a limit ends the scan.
PLANS = {"enable_sort": "off", "enable_bitmapscan": "off", "plan_cache_mode": "force_custom_plan"}


class Desk:
    """The sessions of one command: one for questions, one for changes, whose functions keep their plans."""

    def __init__(self, session: Session, url: str | None = None, changes: Session | None = None) -> None:
        self._session = session
        self._changes = changes or session
        self._url = url

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str | None) -> AsyncIterator[Self]:
        """Opens the sessions. The block may raise DatabaseTrouble, UsageError for a refused value, and SchemaError.

        The schema is checked only when a name is missing, since a producer may insert without the right to check.
        """
        session = Session(url, "pushq", deadline=60, settings=PLANS)
        changes = Session(url, "pushq", deadline=60)  # connects when first needed
        try:
            yield cls(session, url, changes)
        except ValueRefused as error:
            raise UsageError(f"The database refused a value: {error}.") from None
        except PayloadError as error:
            raise UsageError(str(error)) from None
        except UnexpectedState as error:
            if error.state.startswith(("42", "3F")):  # a name, or the schema, does not exist
                await check_schema(url)
            raise
        finally:
            await session.close()
            await changes.close()

    async def instant(self, seconds: float) -> datetime:
        """The instant `seconds` from now, by the database's clock. The clock of this host may be wrong."""
        (row,) = await self._session.fetch("select now() + $1::float8 * interval '1 second' as instant", seconds)
        return row["instant"]  # type: ignore[no-any-return]

    async def insert(self, job: NewJob) -> UUID | None:
        return await Queue().insert(job, connection=self._session)

    async def enqueue(self, job: NewJob, standing: Literal["keep", "replace"], window: timedelta | None) -> Enqueued:
        return await Queue().enqueue(job, connection=self._session, standing=standing, window=window)

    async def why_it_waits(self, task: str, queue: str) -> str | None:
        """Why no supervisor would run a job of the task now. None: a supervisor would, or the role may not look."""
        try:
            prospects = await self._prospects([(task, queue)], deadline=2.0)
        except DatabaseTrouble:  # a producer may lack the right to look, and the job is inserted by now
            return None
        return why_never(prospects[task, queue])

    async def list_jobs(
        self, wanted: Filter, limit: int, *, after: UUID | None = None, seconds: float = LONGEST_SEARCH
    ) -> Listing:
        """The newest jobs that match, or older ones than the job `after`. Looks no further after `seconds`.

        Rows have all columns except payload, result and traceback; and waits, why a queued job does not run now.
        """
        until, listing = time.monotonic() + seconds, Listing(older=after)
        async for page in pages(self._session, wanted, after, limit):
            listing.rows += await self._jobs(page.ids, page.days)
            listing.looked, listing.older = listing.looked + page.looked, page.last
            if len(listing.rows) >= limit or time.monotonic() > until:
                break
        listing.cut(limit)
        if not listing.rows:
            await refuse_hidden(self._session, self._url)
        await self._tell_why(listing.rows)
        return listing

    async def _jobs(self, ids: Sequence[UUID], days: Sequence[date]) -> list[Row]:
        if not ids:
            return []
        places = {*zip(ids, days, strict=True)}  # jobs may share an id and a day
        rows = await self._session.fetch(statement("list_jobs"), [job for job, _ in places], [day for _, day in places])
        return sorted(map(dict, rows), key=itemgetter("id"), reverse=True)

    async def find(self, job_id: UUID) -> Row | None:
        """A job's columns, payload and result as JSON text, needs as a dict, and waits. None: no such job.

        Of jobs that share an id, the newest.
        """
        rows = [dict(row) for row in await self._session.fetch(statement("find_job"), job_id)]
        for row in rows:
            row["needs"] = row["needs"] and json.loads(row["needs"])
        await self._tell_why(rows)
        return rows[0] if rows else None

    async def _tell_why(self, rows: Sequence[Row]) -> None:
        """Adds to each row: waits, task_is_known, queue_is_paused. Takes away what only the reason needs."""
        pairs = sorted({(row["task"], row["queue"]) for row in rows})
        prospects = await self._prospects(pairs) if pairs else {}
        for row in rows:
            prospect = prospects[row["task"], row["queue"]]
            row["task_is_known"] = prospect["is_known"]
            row["queue_is_paused"] = prospect["is_paused"] or prospect["are_all_paused"]
            row["waits"] = why_not_now(row, prospect) if row["status"] == Status.QUEUED else None
            del row["due_in"], row["apart"]

    async def _prospects(
        self, pairs: Sequence[tuple[str, str]], deadline: float | None = None
    ) -> Mapping[tuple[str, str], Row]:
        """The rows of prospects.sql by pairs of task and queue."""
        tasks, queues = [task for task, _ in pairs], [queue for _, queue in pairs]
        rows = await self._session.fetch(statement("prospects"), tasks, queues, deadline=deadline)
        return {(row["task"], row["queue"]): dict(row) for row in rows}

    async def find_all(self, wanted: Filter, noted: Callable[[int], None]) -> list[Place]:
        """The place of every match, the oldest first. Tells `noted`, after each statement, how many are found."""
        places: list[Place] = []
        async for page in pages(self._session, wanted, None, LONGEST_LOOK):
            places += zip(page.ids, page.days, strict=True)
            noted(len(places))
        return places[::-1]

    async def change_all(self, verb: str, places: Sequence[Place], status: Status) -> AsyncIterator[Counter[str]]:
        """Retries or cancels jobs, a hundred in a transaction. Yields what was done, and how often, after each.

        A job whose status has changed since is left as it is.
        """
        for batch in (places[start : start + AT_A_TIME] for start in range(0, len(places), AT_A_TIME)):
            ids, days = [job for job, _ in batch], [day for _, day in batch]
            rows = await self._changes.fetch(statement(f"{verb}_jobs"), ids, days, status)
            did = Counter(row["did"] for row in rows)
            did[CHANGED] += max(0, len(batch) - len(rows))
            yield +did

    async def events_of(self, job_id: UUID) -> list[Row]:
        """The newest events of a job, the oldest first: see events_of_job.sql."""
        return await history.events_of(self._session, job_id, SHOWN_EVENTS)

    async def artifacts_of(self, job_id: UUID) -> list[Artifact]:
        """What handlers have left with the job, by name."""
        return await artifacts_of(self._session, job_id)

    def pieces_of(self, artifact: Artifact) -> AsyncGenerator[bytes, None]:
        """The bytes: see `reading.pieces_of`."""
        return pieces_of(self._changes, artifact)

    async def newest_events(self, wanted: history.Wanted, limit: int) -> list[Row]:
        """The newest events, the oldest first: see list_events.sql."""
        return await history.newest_events(self._changes, wanted, limit)

    def follow_events(
        self, wanted: history.Wanted, limit: int, told: Callable[[str], None]
    ) -> AsyncIterator[list[Row]]:
        """Yields the newest events, then events as they happen: see `history.follow`."""
        return history.follow(self._changes, wanted, limit, told)

    async def list_queues(self) -> list[Row]:
        """Rows of queue, queued, running, oldest_seconds, served, paused, is_exact, all_events, keep, keep_failed.

        See list_queues.sql.
        """
        rows = await self._session.fetch(statement("list_queues"), SHOWN_QUEUES, COUNTED_NOW)
        if not rows:
            await refuse_hidden(self._session, self._url)
        return [dict(row) for row in rows]

    async def served_queues(self) -> list[str]:
        """The queues, by name, that a supervisor serves or has served."""
        rows = await self._changes.fetch(
            "select name from pushq.queues where served_since is not null order by name limit $1", SHOWN_QUEUES
        )
        return [row["name"] for row in rows]

    async def list_webhooks(self) -> list[Row]:
        """Rows of list_webhooks.sql: the subscriptions, the newest first, without their secrets."""
        rows = await self._session.fetch(statement("list_webhooks"), SHOWN_WEBHOOKS)
        if not rows:
            await refuse_hidden(self._session, self._url)
        return [dict(row) for row in rows]

    async def list_limits(self) -> list[Row]:
        """Rows of list_limits.sql: the rules, and the names that jobs hold or wait for."""
        rows = await self._session.fetch(statement("list_limits"), SHOWN_LIMITS, NEEDS_LOOKED_AT)
        if not rows:
            await refuse_hidden(self._session, self._url)
        return [dict(row) for row in rows]

    async def limit(
        self, name: str, capacity: int | None, rate: float | None, burst: int, *, is_strict: bool = False
    ) -> str:
        """Chooses the rule of a name. None: any number. Raises UsageError for a rule that cannot be."""
        return await self._ruled("limit", name, capacity, rate, burst, is_strict)

    async def is_resource(self, name: str) -> bool:
        """Whether the name has a rule as a resource, or jobs or tasks need the name: see is_resource.sql."""
        (row,) = await self._session.fetch(statement("is_resource"), name, NEEDS_LOOKED_AT)
        return bool(row["is_resource"])

    async def unlimit(self, name: str) -> str:
        """Takes away the rule of a name."""
        return await self._ruled("unlimit", name)

    async def _ruled(self, function: str, *given: object) -> str:
        places = ", ".join(f"${place}" for place in range(1, len(given) + 1))
        (row,) = await self._changes.fetch(f"select pushq.{function}({places}) as did", *given)
        return str(row["did"])

    async def stamp(self) -> AsyncIterator[tuple[int, int]]:
        """Gives unfinished jobs the needs that limits say. Yields how many each step has seen, and changed."""
        after: UUID | None = None
        while True:
            step = await self._changes.fetch("select * from pushq.stamp($1::uuid, $2)", after, STAMPED_AT_ONCE)
            yield step[0]["looked"], step[0]["stamped"]
            after = step[0]["last"]
            if after is None:
                return

    async def list_schedules(self) -> list[Row]:
        """Rows of list_schedules.sql, with waits: why no supervisor would run a job of the schedule now, or None."""
        rows = [dict(row) for row in await self._session.fetch(statement("list_schedules"), SHOWN_SCHEDULES)]
        if not rows:
            await refuse_hidden(self._session, self._url)
        pairs = sorted({(row["task"], row["queue"]) for row in rows})
        prospects = await self._prospects(pairs) if pairs else {}
        return [{**row, "waits": why_never(prospects[row["task"], row["queue"]])} for row in rows]

    async def schedule_names(self) -> list[str]:
        """The names of schedules, whoever's."""
        rows = await self._changes.fetch(
            "select distinct name from pushq.schedules order by name limit $1", SHOWN_SCHEDULES
        )
        return [row["name"] for row in rows]

    async def find_schedule(self, name: str, tenant: str | None) -> Row | None:
        """A row of find_schedule.sql. None: there is no such schedule."""
        rows = await self._changes.fetch(statement("find_schedule"), name, tenant)
        return dict(rows[0]) if rows else None

    async def change_schedule(self, verb: str, name: str, tenant: str | None) -> str:
        """Calls pushq.pause_schedule, resume_schedule or run_schedule. Returns the answer; of run: the job's id."""
        assert verb in ("pause", "resume", "run")
        (row,) = await self._changes.fetch(f"select pushq.{verb}_schedule($1, $2)::text as did", name, tenant)
        return str(row["did"] or "unknown")

    async def remove_schedule(self, name: str, tenant: str | None) -> str:
        """Returns removed, or unknown."""
        return "removed" if await self._changes.fetch(statement("remove_schedule"), name, tenant) else "unknown"

    async def why(self, job_id: UUID) -> list[Row]:
        """Why a queued job does not run: cause, sentence, and detail as JSON text. Empty: nothing keeps it waiting."""
        return [dict(row) for row in await self._changes.fetch("select * from pushq.why($1)", job_id)]

    async def why_queue(self, queue: str) -> list[Row]:
        """Why jobs of a queue wait, as `why`. Empty: no job is queued, and nothing would keep one waiting."""
        return [dict(row) for row in await self._changes.fetch("select * from pushq.why_queue($1)", queue)]

    async def list_supervisors(self) -> list[Row]:
        """Rows of list_supervisors.sql: the supervisors by start, the dead that still hold jobs first."""
        rows = await self._session.fetch(statement("list_supervisors"))
        if not rows:
            await refuse_hidden(self._session, self._url)
        return [dict(row) for row in rows]

    async def deliveries_among(self, ids: Sequence[UUID]) -> set[UUID]:
        """Which of the ids are deliveries of webhooks, and not jobs of an application, nor unknown."""
        return {row["id"] for row in await self._session.fetch(statement("deliveries_among"), [*ids])}

    async def change(self, verb: str, what: UUID | str, *, expected: Status | None = None) -> str:
        """Calls pushq.cancel, retry, pause or resume. Returns the function's answer, such as "cancelled".

        expected: the status that a job must have, for cancel and retry.
        """
        assert verb in ("cancel", "retry", "pause", "resume")
        given = [what] if expected is None else [what, expected]
        places = ", ".join(f"${place}" for place in range(1, len(given) + 1))
        (row,) = await self._changes.fetch(f"select pushq.{verb}({places}) as did", *given)
        return str(row["did"])

    async def be_fair(self, queue: str, by: str | None) -> str:
        """Makes a queue fair by 'tenant' or 'key'. None: no longer fair."""
        return await self._ruled("be_fair", queue, by)

    async def set_turn(self, queue: str, turn: str) -> str:
        """How long a lane of the queue goes on, in any words of PostgreSQL's for intervals."""
        await self._refuse_other_words(turn)
        (row,) = await self._changes.fetch("select pushq.set_turn($1, $2::text::interval) as did", queue, turn)
        return str(row["did"])

    async def keep(self, queue: str, keep: str | None, keep_failed: str | None) -> dict[str, str | None]:
        """How long a queue's finished jobs are kept, in any words of PostgreSQL's for intervals. None: by default.

        Returns a row of queue, did, keep, keep_failed: the rule that now holds, as PostgreSQL has understood the words.
        """
        await self._refuse_other_words(keep, keep_failed)
        (row,) = await self._changes.fetch(
            "select $1::text as queue, pushq.keep($1, rule.keep, rule.keep_failed) as did, rule.keep::text, "
            "rule.keep_failed::text from (values ($2::text::interval, $3::text::interval)) as rule (keep, keep_failed)",
            queue,
            keep,
            keep_failed,
        )
        return dict(row)

    async def _refuse_other_words(self, *times: str | None) -> None:
        """Raises UsageError for what is no interval to PostgreSQL."""
        for time_ in times:
            try:
                await self._changes.fetch("select $1::text::interval is null", time_)
            except ValueRefused:
                raise UsageError(
                    f"{time_!r} is not a time that PostgreSQL knows; write 50ms, 90s, 2h or 30d."
                ) from None

    async def keep_all_events(self, queue: str, *, is_on: bool) -> str:
        (row,) = await self._changes.fetch("select pushq.keep_all_events($1, $2) as did", queue, is_on)
        return str(row["did"])
