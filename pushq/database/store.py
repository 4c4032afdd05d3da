"""What pushq says to the database: one short method a statement, each statement in a file of its own in sql/."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from time import monotonic
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from pushq.database.patience import is_objection, piecewise
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.errors import DatabaseTrouble, UnexpectedState, ValueRefused
from pushq.events import JobsLeft, publish
from pushq.job import Job
from pushq.outcome import ENDS, Kind, Outcome

T = TypeVar("T")

Fence: TypeAlias = tuple[UUID, UUID]
"""A job's id and a token: one claim of it. Of an id alone there may be two in one batch, after a failover."""

_LARGEST_REQUEUE = 1000

# What the server says to the slower of two who detach a partition: it is gone, or not in a state to be detached.
_DETACHED_BY_ANOTHER = ("42P01", "55000")


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, and what: the jobs of `queues`, in that order, whose task is one of `tasks`."""

    supervisor: str
    pool: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a pool that found nothing may expect. due_in: seconds until a job is due, None: none is queued."""

    due_in: float | None
    lease_is_live: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that was taken away from its pool: status is queued or failed."""

    id: UUID
    queue: str
    task: str
    status: str
    crashes: int


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a supervisor looks after beside its pools.

    pools: under whose numbers its jobs run. suspects: how many jobs that have killed two processes are due, of those
    that its pools know and serve. suspect_due_in: seconds until the next one is, None: none waits.
    """

    pools: Sequence[int]
    suspects: int
    suspect_due_in: float | None


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


class Store:
    """The statements, on one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take_slowest_answer(self) -> float:
        """Seconds that a statement took, at most, since this was last asked."""
        slowest, self._session.slowest_answer = self._session.slowest_answer, 0.0
        return slowest

    # A pool's claims ------------------------------------------------------------------------------------------

    async def claim(
        self, claimant: Claimant, token: UUID, limit: int, since: float | None = None, until: float | None = None
    ) -> list[Job]:
        """Takes due jobs, at most `limit`; only such as became due at most `since` and at least `until` seconds ago."""
        return _jobs(await self._fetch("claim", *_claim(claimant, token), limit, since, until))

    async def claimable(self, claimant: Claimant, limit: int) -> list[UUID]:
        """The ids of what a claim would take."""
        asked = (*_wanted(claimant), claimant.supervisor, limit)
        return [row["id"] for row in await self._fetch("claimable", *asked)]

    async def claim_these(self, claimant: Claimant, token: UUID, job_ids: Sequence[UUID]) -> list[Job]:
        return _jobs(await self._fetch("claim_these", job_ids, claimant.supervisor, claimant.pool, token))

    async def claim_suspect(self, claimant: Claimant, token: UUID, passed_over: Sequence[UUID] = ()) -> list[Job]:
        return _jobs(await self._fetch("claim_suspect", *_claim(claimant, token), passed_over))

    async def next_suspect(self, claimant: Claimant, passed_over: Sequence[UUID]) -> list[UUID]:
        """What claim_suspect would take: one or none."""
        asked = (list(claimant.queues), list(claimant.tasks), passed_over)
        return [row["id"] for row in await self._fetch("next_suspect", *asked)]

    async def take_back(self, supervisor: str, token: UUID) -> list[Job]:
        return _jobs(await self._fetch("take_back", supervisor, token))

    async def payload(self, job: Job) -> str | None:
        """The payload of a running job, if it still runs under its token.

        Raises ValueRefused where its numbers have too many digits.
        """
        rows = await self._fetch("payload", job.id, job.token)
        if not rows:
            return None
        if rows[0]["payload"] is None:
            raise ValueRefused("its numbers have too many digits; send them as strings")
        return str(rows[0]["payload"])

    async def next_due(self, claimant: Claimant, lookback: float | None = None) -> Outlook:
        row = await self._one("next_due", *_wanted(claimant), claimant.supervisor, lookback)
        return Outlook(row["due_in"], row["lease_is_live"])

    async def register(self, claimant: Claimant) -> None:
        await self._fetch("register", claimant.supervisor, list(claimant.tasks), list(claimant.queues))

    async def label(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Gives labels to pairs of a queue and a task that is registered on it."""
        await self._fetch("label", [queue for queue, _ in pairs], [task for _, task in pairs])

    # The gate -------------------------------------------------------------------------------------------------

    async def open_gate(self, queues: Sequence[str], milliseconds: int) -> bool:
        """Whether one of the gates was shut."""
        row = await self._one("gate_open", list(queues), milliseconds)
        return bool(row["was_shut"])

    async def shut_gate(self, queues: Sequence[str]) -> None:
        await self._fetch("gate_shut", list(queues))

    async def gate_passers(self, among: list[str] | None = None) -> list[str]:
        row = await self._one("gate_passers", among)
        return list(row["transactions"])

    async def send_canary(self, channel: str) -> bool:
        """Whether it was sent: not while the server's notification queue is half full."""
        row = await self._one("canary", channel)
        return bool(row["was_sent"])

    # Outcomes -------------------------------------------------------------------------------------------------

    async def finish(self, outcomes: Sequence[Outcome]) -> set[Fence]:
        """The claims whose outcomes were accepted. Jobs that ended are written first, then jobs that go on.

        Without outcomes both statements are carried out, to find out whether they are undone whatever the job.
        """
        ended = [outcome for outcome in outcomes if outcome.kind in ENDS]
        accepted = set[Fence]()
        if ended or not outcomes:
            accepted |= await self._end(ended)
        if len(ended) < len(outcomes) or not outcomes:
            accepted |= await self._give_back([outcome for outcome in outcomes if outcome.kind not in ENDS])
        return accepted

    async def _end(self, outcomes: Sequence[Outcome]) -> set[Fence]:
        now = monotonic()
        claims = [outcome.job.fence for outcome in outcomes]
        row = await self._one(
            "finish",
            [job_id for job_id, _ in claims],
            [token for _, token in claims],
            [now - outcome.began if outcome.began else 0.0 for outcome in outcomes],
            [now - outcome.ended if outcome.ended else 0.0 for outcome in outcomes],
            _unless_all(Kind.SUCCEEDED, [outcome.kind for outcome in outcomes]),
            _unless_all(None, [outcome.error for outcome in outcomes]),
            _unless_all(None, [outcome.traceback for outcome in outcomes]),
            _unless_all(None, [outcome.result for outcome in outcomes]),
        )
        return _accepted(claims, row["places"])

    async def _give_back(self, outcomes: Sequence[Outcome]) -> set[Fence]:
        claims = [outcome.job.fence for outcome in outcomes]
        row = await self._one(
            "give_back",
            [job_id for job_id, _ in claims],
            [token for _, token in claims],
            [outcome.kind for outcome in outcomes],
            [outcome.delay for outcome in outcomes],
            [outcome.error for outcome in outcomes],
            [outcome.traceback for outcome in outcomes],
        )
        return _accepted(claims, row["places"])

    async def finished_with_token(self, outcomes: Sequence[Outcome]) -> set[Fence]:
        """The claims under which a job is finished."""
        return await self._claims_that("finished_with_token", outcomes)

    async def still_held(self, outcomes: Sequence[Outcome]) -> set[Fence]:
        """The claims under which a job runs."""
        return await self._claims_that("still_held", outcomes)

    async def _claims_that(self, name: str, outcomes: Sequence[Outcome]) -> set[Fence]:
        ids = [outcome.job.id for outcome in outcomes]
        tokens = [outcome.job.token for outcome in outcomes]
        return {(row["id"], row["token"]) for row in await self._fetch(name, ids, tokens)}

    async def locked(self, outcomes: Sequence[Outcome]) -> set[UUID]:
        """The ids of the jobs whose rows somebody else has locked."""
        return {row["id"] for row in await self._fetch("locked", [outcome.job.id for outcome in outcomes])}

    # The supervisor -------------------------------------------------------------------------------------------

    async def heartbeat(self, name: str, host: str, pid: int, lease: float) -> bool:
        """Whether the lease had run out."""
        row = await self._one("heartbeat", name, host, pid, lease)
        return bool(row["lapsed"])

    async def goodbye(self, name: str) -> None:
        await self._fetch("goodbye", name)

    async def requeue(
        self, supervisors: Iterable[str], *, pool: int | None = None, crashed: bool, buried: bool = False
    ) -> list[Taken]:
        """Takes the running jobs of supervisors, or of one pool, away: charged with a crash, or released.

        buried: only from those who are still so. One may have come back to life, and have claimed anew. A job that the
        database does not let go of, for a reason of its own, is left, and said to be; the others are taken.
        """
        names, taken = list(supervisors), list[Taken]()

        async def take(only: Sequence[UUID] | None = None) -> int:
            rows = await self._fetch("requeue", names, pool, crashed, buried, only)
            taken.extend(Taken(**row) for row in rows)
            return len(rows)

        async def take_apart() -> None:
            await take([])  # undone too, if it is no row's fault
            left: dict[UUID, str] = {}
            before = -1
            while before < len(taken):
                before = len(taken)
                running = [row["id"] for row in await self._fetch("running", names, pool, buried)]
                left |= await piecewise(take, [job_id for job_id in running if job_id not in left])
            if left:
                publish(JobsLeft(len(left), next(iter(left.values()))))

        try:
            while await take() == _LARGEST_REQUEUE:
                pass
        except DatabaseTrouble as error:
            if not is_objection(error):
                raise
            await take_apart()
        return taken

    async def upkeep(self, supervisor: str, queues: Sequence[str], tasks: Sequence[str], most: int) -> Upkeep:
        """most: suspects to count."""
        row = await self._one("upkeep", supervisor, list(queues), list(tasks), most)
        return Upkeep(**row)

    # The sweeper's chores -------------------------------------------------------------------------------------

    async def observe(self) -> list[Sighting]:
        return [Sighting(**row) for row in await self._fetch("observe")]

    async def bury(self, dead: Sequence[tuple[str, int]]) -> list[str]:
        """The names of those that were dead indeed, of (name, heartbeat)."""
        names, heartbeats = [name for name, _ in dead], [heartbeat for _, heartbeat in dead]
        return [row["name"] for row in await self._fetch("bury", names, heartbeats)]

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

    # The exporter ---------------------------------------------------------------------------------------------

    async def tallies(self) -> list[Any]:
        """Rows of (queue, task, outcome, jobs, run_seconds, wait_seconds), and (run_buckets, run_jobs, wait_buckets,
        wait_jobs): buckets, and how many jobs are in each. In the order of queue and task.
        """
        return await self._fetch("tallies")

    async def gauges(self) -> list[Any]:
        """Rows of (queue, status, jobs, age in seconds)."""
        return await self._fetch("gauges")

    async def live(self) -> Any:
        """One row of (supervisors, queues, run_bounds, wait_bounds)."""
        return await self._one("live")

    async def _one(self, name: str, *arguments: object) -> Any:
        """The one row that a statement returns."""
        rows = await self._fetch(name, *arguments)
        if not rows:
            raise UnexpectedState(f"{name}.sql returned no row, as where a trigger of somebody's skips it.")
        return rows[0]

    async def _fetch(self, name: str, *arguments: object) -> list[Any]:
        return await self._session.fetch(statement(name), *arguments)


def _claim(claimant: Claimant, token: UUID) -> tuple[object, ...]:
    return *_wanted(claimant), claimant.supervisor, claimant.pool, token


def _wanted(claimant: Claimant) -> tuple[list[str], list[str]]:
    """Queues and tasks. Python sorts names as the index does: by their code points, which is by the bytes of UTF-8."""
    return list(claimant.queues), sorted(claimant.tasks)


def _unless_all(usual: T, values: list[T]) -> list[T]:
    """The values, or none: an array's elements cost more on the way than all the rest of a batch."""
    return [] if values.count(usual) == len(values) else values


def _accepted(claims: list[Fence], places: list[int] | None) -> set[Fence]:
    """places: from 1; None: all."""
    return set(claims if places is None else [claims[place - 1] for place in places])


def _jobs(rows: Iterable[Any]) -> list[Job]:
    """The statements return a job's columns in the order of Job's fields, a timeout in seconds."""
    return [
        job if job.timeout is None else job._replace(timeout=timedelta(seconds=job.timeout))  # type: ignore[arg-type]
        for job in map(Job._make, rows)
    ]
