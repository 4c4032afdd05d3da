"""What a supervisor says to the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from pushq.schedules import Missed, Step
from pushq.sweeper import store as sweeper


@dataclass(frozen=True, slots=True)
class Survey:
    """A supervisor's running jobs, and the suspects for its solo pools: jobs that have killed two processes.

    pools: numbers of the pools under which jobs run. suspects: how many known and served suspects are due.
    suspect_due_in: seconds until the next suspect is due, or None when none waits. has_webhooks: whether there is a
    webhook that is not paused, or a delivery. has_schedules: whether there is a schedule.
    """

    pools: Sequence[int]
    suspects: int
    suspect_due_in: float | None
    has_webhooks: bool
    has_schedules: bool


@dataclass(frozen=True, slots=True)
class Outlook:
    """What schedules are about to ask for.

    first_at: the first slot of all, if there is any. due_in: seconds until then; negative: due since then.
    any_to_compute: whether a next slot is to be computed. are_any: whether there is any schedule, also a paused one.
    now: by the database's clock.
    """

    first_at: datetime | None
    due_in: float | None
    any_to_compute: bool
    are_any: bool
    now: datetime


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule whose slot `next_at` is due, or will be within a moment.

    due_in: seconds until then; negative: due since then. is_retry: whether the slot's job was refused before. now: by
    the database's clock, when due_in was measured.
    """

    id: UUID
    cron: str | None
    zone: str
    every: timedelta | None
    missed: Missed
    next_at: datetime
    due_in: float
    is_retry: bool
    now: datetime


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule whose first slot after `since` is to be computed."""

    id: UUID
    cron: str
    zone: str
    since: datetime


class Store(sweeper.Store):
    """The lease and the survey, beside the sweeper's statements, since a supervisor sweeps."""

    async def heartbeat(self, name: str, host: str, pid: int, lease: float, workers: int = 0) -> bool:
        """Renews the lease for `lease` seconds. workers: 0 if unknown. Returns whether the lease had run out."""
        row = await self._one("heartbeat", name, host, pid, lease, workers)
        return bool(row["lapsed"])

    async def goodbye(self, name: str) -> None:
        """Gives the lease back."""
        await self._fetch("goodbye", name)

    async def survey(self, supervisor: str, queues: Sequence[str], tasks: Sequence[str], most: int) -> Survey:
        """most: how many due suspects to count at most."""
        row = await self._one("survey", supervisor, list(queues), list(tasks), most)
        return Survey(**row)

    # Schedules ------------------------------------------------------------------------------------------------

    async def schedules_outlook(self, first_at: datetime | None) -> Outlook:
        """first_at: an instant before which no slot is due, if one is known."""
        return Outlook(**await self._one("schedules_outlook", first_at))

    async def right_schedules(self) -> int:
        """Has schedules computed anew that were kept while the database's clock was ahead. Returns how many."""
        row = await self._one("schedules_right")
        return int(row["righted"])

    async def schedules_due(self, first_at: datetime | None, within: float, most: int) -> list[DueSchedule]:
        """Schedules that are due, or within so many seconds: the `most` first, and the `most` last."""
        return [DueSchedule(**row) for row in await self._fetch("schedules_due", first_at, within, most)]

    async def keep_schedules(self, steps: Sequence[tuple[DueSchedule, Step]]) -> int:
        """Takes the steps, each only if the slot is still the next. Returns how many were taken.

        If the database refuses a job, the schedule's row says why, and the other steps are taken.
        """
        due, its = [one for one, _ in steps], [step for _, step in steps]
        row = await self._one(
            "schedules_keep",
            [one.id for one in due],
            [one.next_at for one in due],
            [one.cron for one in due],
            [one.zone for one in due],
            [one.every for one in due],
            [step.becomes for step in its],
            [step.error for step in its],
            [place for place, step in enumerate(its, 1) for _ in step.slots],
            [slot for step in its for slot in step.slots],
        )
        return int(row["kept"])

    async def refuse_slot(self, due: DueSchedule, reason: str) -> None:
        """Notes why the slot's job was not inserted. The slot is tried again."""
        await self._fetch("schedules_refuse", due.id, due.next_at, reason)

    async def schedules_to_compute(self, most: int) -> list[NewSchedule]:
        return [NewSchedule(**row) for row in await self._fetch("schedules_to_compute", most)]

    async def set_next(self, found: Sequence[tuple[NewSchedule, datetime | None, str | None]]) -> int:
        """Sets the first slot of schedules, or why there is none. Returns how many were set."""
        row = await self._one(
            "schedules_set_next",
            [new.id for new, _, _ in found],
            [new.cron for new, _, _ in found],
            [new.zone for new, _, _ in found],
            [first for _, first, _ in found],
            [error for _, _, error in found],
        )
        return int(row["set"])
