"""What a sweeper says to the database, and a supervisor of the jobs that it takes from its pools."""

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

# What the server says to the slower of two who detach a partition: it is gone, or not in a state to be detached.
_DETACHED_BY_ANOTHER = ("42P01", "55000")


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that was taken away from its pool: status is queued or failed."""

    id: UUID
    queue: str
    task: str
    status: str
    crashes: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """A supervisor as a sweeper sees it. lease in seconds; heartbeat is -1 for one that has no row."""

    name: str
    heartbeat: int
    expired: bool
    lease: float


@dataclass(frozen=True, slots=True)
class EmptiedDay:
    """A day past retention. trouble: why it could not be emptied."""

    day: date
    trouble: str | None


@dataclass(frozen=True, slots=True)
class RetiredDay:
    """An emptied day's partition and the next step to be rid of it: detach, finalize or drop."""

    day: date
    partition: str
    step: str


class Store(Speaker):
    """Who lives, jobs of the dead, days, tallies, the census."""

    def take_slowest_answer(self) -> float:
        """Seconds that a statement took, at most, since this was last asked."""
        slowest, self._session.slowest_answer = self._session.slowest_answer, 0.0
        return slowest

    # Jobs of the dead -----------------------------------------------------------------------------------------

    async def observe(self) -> list[Sighting]:
        return [Sighting(**row) for row in await self._fetch("observe")]

    async def declare_dead(self, dead: Sequence[tuple[str, int]]) -> list[str]:
        """The names of those that were dead indeed, of (name, heartbeat)."""
        names, heartbeats = [name for name, _ in dead], [heartbeat for _, heartbeat in dead]
        return [row["name"] for row in await self._fetch("declare_dead", names, heartbeats)]

    async def requeue(
        self, supervisors: Iterable[str], *, pool: int | None = None, crashed: bool, only_if_dead: bool = False
    ) -> list[Taken]:
        """Takes the running jobs of supervisors, or of one pool, away: charged with a crash, or released.

        only_if_dead: only from supervisors without a row. A supervisor that was declared dead may have come back, and
        claimed anew. A job that the database does not let go is left, and published as such; the others are taken.
        """
        names, taken = list(supervisors), list[Taken]()

        async def take(only: Sequence[UUID] | None = None) -> int:
            rows = await self._fetch("requeue", names, pool, crashed, only_if_dead, only)
            taken.extend(Taken(**row) for row in rows)
            return len(rows)

        async def take_apart() -> None:
            await take([])  # undone too, if it is no row's fault
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

    # Days, tallies, the census --------------------------------------------------------------------------------

    async def make_days(self) -> list[date]:
        return [row["day"] for row in await self._fetch("make_days")]

    async def retire_days(self, keep: timedelta) -> list[EmptiedDay]:
        return [EmptiedDay(**row) for row in await self._fetch("retire_days", keep.total_seconds())]

    async def retired_days(self) -> list[RetiredDay]:
        return [RetiredDay(**row) for row in await self._fetch("retired_days")]

    async def drop_day(self, retired: RetiredDay) -> bool:
        """Takes one step, and those after it; False: another sweeper was quicker.

        The partition's name is made from a date by the database.
        """
        table = f"pushq.{retired.partition}"
        try:
            if retired.step == "detach":
                await self._session.execute_alone(f"alter table pushq.jobs detach partition {table} concurrently")
            elif retired.step == "finalize":
                await self._session.execute_alone(f"alter table pushq.jobs detach partition {table} finalize")
        except UnexpectedState as error:
            if error.state in _DETACHED_BY_ANOTHER:
                return False
            raise
        await self._session.execute_alone(f"drop table if exists {table}")
        await self._fetch("forget_day", retired.day)
        return True

    async def fold(self, at_most: int) -> int:
        """How many entries of the tallies' log were folded: none where another folds them."""
        row = await self._one("fold", at_most)
        return int(row["entries"])

    async def take_census(self) -> int | None:
        """How many jobs are unfinished. None: it was not time for a census."""
        rows = await self._fetch("census")
        return int(rows[0]["jobs"]) if rows else None
