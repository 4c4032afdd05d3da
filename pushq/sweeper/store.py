"""The sweeper's statements. A supervisor uses some for the jobs of its own pools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from uuid import UUID

from pushq.database.patience import is_rejection, piecewise
from pushq.database.speaker import Speaker
from pushq.errors import DatabaseTrouble, UnexpectedState
from pushq.events import JobsLeft, publish

_LARGEST_REQUEUE = 1000

# SQLSTATEs that the slower of two sweepers gets when both detach a partition: undefined table, and wrong state.
_DETACHED_BY_ANOTHER = ("42P01", "55000")


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that was taken away from a pool. status: queued, failed or cancelled."""

    id: UUID
    queue: str
    task: str
    status: str
    crashes: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """A supervisor as a sweeper sees it. heartbeat: a counter, or -1 if the supervisor has no row. lease in seconds."""

    name: str
    heartbeat: int
    expired: bool
    lease: float


@dataclass(frozen=True, slots=True)
class EmptiedDay:
    """A day past retention. trouble: why the day could not be emptied, or None."""

    day: date
    trouble: str | None


@dataclass(frozen=True, slots=True)
class Purged:
    """A step of the purge of a day. is_over: nothing is left to do in the day. trouble: why jobs stay, or None.

    milliseconds: how long the database took.
    """

    purged: int
    is_over: bool
    milliseconds: float
    trouble: str | None


@dataclass(frozen=True, slots=True)
class RetiredDay:
    """An emptied day's partition of parent: jobs, job_events or artifact_pieces.

    step: what comes next: detach, finalize or drop.
    """

    day: date
    parent: str
    partition: str
    step: str


@dataclass(frozen=True, slots=True)
class Folded:
    """entries: of the tallies' log. has_rules: whether a queue says how long its jobs are kept.

    needs_stamped: not 0 if jobs get needs by rules; another number after each change of the rules.
    """

    entries: int
    has_rules: bool
    needs_stamped: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A step through the artifacts. last: the id of the last that was looked at; None: there was none.

    outlived: whether the last was of a day before all days of jobs.
    """

    looked: int
    forgotten: int
    last: UUID | None
    outlived: bool


@dataclass(frozen=True, slots=True)
class HeldUp:
    """A session waits. relation: whose lock the session wants; None: the end of a transaction. holder: who has it."""

    relation: str | None
    holder: str


class Store(Speaker):
    """Statements about supervisors, jobs of the dead, days, purges, artifacts, tallies and the census."""

    def take_slowest_answer(self) -> float:
        """The longest time of a statement since the last call, in seconds."""
        slowest, self._session.slowest_answer = self._session.slowest_answer, 0.0
        return slowest

    # Jobs of the dead -----------------------------------------------------------------------------------------

    async def observe(self) -> list[Sighting]:
        return [Sighting(**row) for row in await self._fetch("observe")]

    async def declare_dead(self, dead: Sequence[tuple[str, int]]) -> list[str]:
        """Deletes the rows of supervisors, given as (name, heartbeat), that are still dead. Returns the names."""
        names, heartbeats = [name for name, _ in dead], [heartbeat for _, heartbeat in dead]
        return [row["name"] for row in await self._fetch("declare_dead", names, heartbeats)]

    async def requeue(
        self, supervisors: Iterable[str], *, pool: int | None = None, crashed: bool, only_if_dead: bool = False
    ) -> list[Taken]:
        """Takes running jobs away from supervisors, or from one pool: charged with a crash, or released.

        only_if_dead: only from supervisors without a row. A supervisor that was declared dead may have come back, and
        claimed anew. A job that the database does not let go is left, and published as such; the others are taken.
        """
        names, taken = list(supervisors), list[Taken]()

        async def take(only: Sequence[UUID] | None = None) -> int:
            rows = await self._fetch("requeue", names, pool, crashed, only_if_dead, only)
            taken.extend(Taken(**row) for row in rows)
            return len(rows)

        async def take_apart() -> None:
            await take([])  # raises if no row is at fault
            left: dict[UUID, str] = {}
            before = -1
            while before < len(taken):
                before = len(taken)
                running = [row["id"] for row in await self._fetch("running", names, pool, only_if_dead)]
                left |= await piecewise(take, [job_id for job_id in running if job_id not in left])
            if left:
                publish(JobsLeft(len(left), next(iter(left.values()))))

        try:
            while await take() == _LARGEST_REQUEUE:
                pass
        except DatabaseTrouble as error:
            if not is_rejection(error):
                raise
            await take_apart()
        return taken

    # Days -----------------------------------------------------------------------------------------------------

    async def make_days(self) -> list[date]:
        return [row["day"] for row in await self._fetch("make_days")]

    async def retire_days(self, keep: timedelta) -> list[EmptiedDay]:
        return [EmptiedDay(**row) for row in await self._fetch("retire_days", keep.total_seconds())]

    async def days_to_purge(self, keep: timedelta) -> list[date]:
        """The days that are not done, the newest first. None while no queue has a rule of its own."""
        return [row["day"] for row in await self._fetch("days_to_purge", keep.total_seconds())]

    async def purge_day(self, day: date, keep: timedelta, blocks: int, most: int) -> Purged:
        """Looks at so many blocks more, and deletes at most so many jobs.

        The step is over, too, if another sweeper is at work in the day.
        """
        return Purged(**await self._one("purge_day", day, keep.total_seconds(), blocks, most))

    async def retired_days(self) -> list[RetiredDay]:
        return [RetiredDay(**row) for row in await self._fetch("retired_days")]

    async def drop_day(self, retired: RetiredDay) -> bool:
        """Takes the day's next step and the steps after. Returns False if another sweeper was faster.

        The database makes the partition's name from a date, so the name is safe in SQL text.
        """
        parent, table = f"pushq.{retired.parent}", f"pushq.{retired.partition}"
        try:
            if retired.step == "detach":
                await self._session.execute_alone(f"alter table {parent} detach partition {table} concurrently")
            elif retired.step == "finalize":
                await self._session.execute_alone(f"alter table {parent} detach partition {table} finalize")
        except UnexpectedState as error:
            if error.state in _DETACHED_BY_ANOTHER:
                return False
            raise
        await self._session.execute_alone(f"drop table if exists {table}")
        if retired.parent == "jobs":
            await self._fetch("forget_day", retired.day)
        return True

    async def forget_windows(self, at_most: int) -> int:
        row = await self._one("forget_windows", at_most)
        return int(row["windows"])

    async def rest_inserts(self) -> None:
        await self._fetch("rest_inserts")

    # Limits ---------------------------------------------------------------------------------------------------

    async def rest_limits(self, at_most: int) -> int:
        row = await self._one("rest_limits", at_most)
        return int(row["rates"])

    async def stamp(self, after: UUID | None, most: int) -> tuple[int, UUID | None]:
        """How many jobs were given needs, and the id after which to go on. None: all have been looked at."""
        row = await self._one("stamp", after, most)
        return row["stamped"], row["last"]

    # Artifacts ------------------------------------------------------------------------------------------------

    async def forget_drafts(self) -> int:
        row = await self._one("forget_drafts")
        return int(row["drafts"])

    async def forget_artifacts(self, after: UUID | None, most: int) -> Forgotten:
        return Forgotten(**await self._one("forget_artifacts", after, most))

    async def forget_artifact_bytes(self) -> int:
        row = await self._one("forget_artifact_bytes")
        return int(row["counts"])

    async def retire_artifact_days(self) -> list[EmptiedDay]:
        """The days that cannot be emptied."""
        return [EmptiedDay(**row) for row in await self._fetch("retire_artifact_days")]

    # Locks ----------------------------------------------------------------------------------------------------

    async def holders(self, application: str, seconds: float) -> list[HeldUp]:
        """What sessions of this application have waited for, longer than that."""
        return [HeldUp(**row) for row in await self._fetch("holders", application, seconds)]

    # Tallies, the census --------------------------------------------------------------------------------------

    async def fold(self, at_most: int) -> Folded:
        """Folds entries of the tallies' log: none while another sweeper folds."""
        return Folded(**await self._one("fold", at_most))

    async def take_census(self) -> int | None:
        """Counts the unfinished jobs. Returns the count, or None if no census was due."""
        rows = await self._fetch("census")
        return int(rows[0]["jobs"]) if rows else None
