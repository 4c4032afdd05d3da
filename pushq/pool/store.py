"""A pool's statements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Protocol, TypeAlias, TypeVar
from uuid import UUID

from pushq.database.lending import Lent
from pushq.database.session import Session
from pushq.database.speaker import Speaker
from pushq.database.statements import statement
from pushq.errors import DatabaseTrouble, ValueRefused
from pushq.job import Job
from pushq.outcome import ENDS, Kind, Outcome
from pushq.progress import Unwritten
from pushq.schedules import Declaration

T = TypeVar("T")

Fence: TypeAlias = tuple[UUID, UUID]
"""A job's id and a token: a claim of the job. After a failover, a batch may hold two claims of the same job."""


_UNNOTED = frozenset({Kind.SUCCEEDED, Kind.DETACHED})


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, and which jobs: of the queues, in their order, and of the tasks."""

    supervisor: str
    pool: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms jobs with needs and jobs of fair queues are claimed.

    most_holding: how many may have needs, at most. lanes_first: whether these come before jobs that are equally urgent.
    near: needs for which free workers are ready. after, taken: pushq/pool/shares.py explains.
    """

    most_holding: int = 0
    lanes_first: bool = False
    near: Sequence[str] | None = None
    after: Sequence[str | None] | None = None
    taken: Sequence[int] | None = None


_PLAIN = Terms()


@dataclass(frozen=True, slots=True)
class Outlook:
    """A pool's prospects when a claim found nothing. due_in: seconds until a job is due, None: none is queued."""

    due_in: float | None
    lease_is_live: bool


@dataclass(frozen=True, slots=True)
class Following:
    """Who takes jobs that follow others in their lanes, and under which token.

    queues, lanes: of the jobs that end; a lane is None if it must let go. turns_over: which lanes go on only if nobody
    waits for what they hold.
    """

    claimant: Claimant
    token: UUID
    queues: Sequence[str]
    lanes: Sequence[str | None]
    turns_over: Sequence[bool]


class Lanes(Protocol):
    """Knows which jobs may follow those that end. pushq/pool/lanes.py explains."""

    def following(self, outcomes: Sequence[Outcome]) -> Following | None: ...

    def settle(self, outcomes: Sequence[Outcome], jobs: Sequence[Job]) -> bool: ...

    def lose(self, following: Following) -> None: ...

    def owe(self) -> None: ...


class Store(Speaker):
    """Claims, the gate, outcomes.

    tell: takes what is to be told to those that wait for jobs, after the commit. supervisor: whose outcomes these are.
    lanes: None for a store that writes no outcomes.
    """

    lanes: Lanes | None = None

    def __init__(
        self, session: Session, tell: Callable[[Sequence[str]], None] = lambda _: None, supervisor: str = ""
    ) -> None:
        super().__init__(session)
        self._tell = tell
        self._supervisor = supervisor

    # Claims ---------------------------------------------------------------------------------------------------

    async def claim(
        self,
        claimant: Claimant,
        token: UUID,
        limit: int,
        since: float | None = None,
        until: float | None = None,
        terms: Terms = _PLAIN,
    ) -> list[Job]:
        """Takes due jobs, at most `limit`.

        The jobs fell due at most `since` and at least `until` seconds ago. None: no bound.
        """
        asked = (*_claim(claimant, token), limit, since, until)
        its = (terms.most_holding, terms.lanes_first, terms.near, terms.after, terms.taken)
        return _jobs(await self._fetch("claim", *asked, *its))

    async def claimable(self, claimant: Claimant, limit: int) -> list[UUID]:
        """The ids of the jobs that a claim would take."""
        asked = (*_wanted(claimant), claimant.supervisor, limit)
        return [row["id"] for row in await self._fetch("claimable", *asked)]

    async def claim_these(self, claimant: Claimant, token: UUID, job_ids: Sequence[UUID]) -> list[Job]:
        return _jobs(await self._fetch("claim_these", job_ids, claimant.supervisor, claimant.pool, token))

    async def claim_suspect(self, claimant: Claimant, token: UUID, passed_over: Sequence[UUID] = ()) -> list[Job]:
        return _jobs(await self._fetch("claim_suspect", *_claim(claimant, token), passed_over))

    async def next_suspect(self, claimant: Claimant, passed_over: Sequence[UUID]) -> list[UUID]:
        """The id of the job that claim_suspect would take, if any."""
        asked = (list(claimant.queues), list(claimant.tasks), passed_over)
        return [row["id"] for row in await self._fetch("next_suspect", *asked)]

    async def ring_for_units(self) -> None:
        """Tells idle pools that units may be free, if jobs wait for any."""
        await self._fetch("ring_for_units")

    async def take_back(self, supervisor: str, token: UUID) -> list[Job]:
        return _jobs(await self._fetch("take_back", supervisor, token))

    async def payload(self, job: Job) -> str | None:
        """The payload of a running job. None: the job no longer runs under its token.

        Raises ValueRefused if numbers in the payload have too many digits.
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

    async def register(self, claimant: Claimant, needs: Mapping[str, Mapping[str, int]]) -> None:
        """Registers the tasks with what they need, and the queues."""
        texts = [json.dumps(needs[task]) if task in needs else None for task in claimant.tasks]
        await self._fetch("register", claimant.supervisor, list(claimant.tasks), list(claimant.queues), texts)

    async def declare_schedules(self, supervisor: str, declared: Sequence[Declaration]) -> None:
        """Writes the schedules that code declares. What an operator has paused stays paused."""
        await self._fetch(
            "schedules_declare",
            supervisor,
            [one.name for one in declared],
            [one.cron for one in declared],
            [one.zone for one in declared],
            [one.every for one in declared],
            [one.task for one in declared],
            [one.payload for one in declared],
            [one.queue for one in declared],
            [json.dumps(one.needs) if one.needs else None for one in declared],
            [one.missed for one in declared],
        )

    async def note_affinities(self, claimant: Claimant, workers: Mapping[str, int]) -> None:
        """What the pool's workers last ran: how many by affinity."""
        await self._fetch("note_affinities", claimant.supervisor, claimant.pool, list(workers), list(workers.values()))

    async def label(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Gives labels to pairs of a queue and a task registered on the queue."""
        await self._fetch("label", [queue for queue, _ in pairs], [task for _, task in pairs])

    # The gate -------------------------------------------------------------------------------------------------

    async def open_gate(self, queues: Sequence[str], milliseconds: int) -> bool:
        """Returns whether any of the gates was shut."""
        row = await self._one("gate_open", list(queues), milliseconds)
        return bool(row["was_shut"])

    async def shut_gate(self, queues: Sequence[str]) -> None:
        await self._fetch("gate_shut", list(queues))

    async def gate_passers(self, among: list[str] | None = None) -> list[str]:
        row = await self._one("gate_passers", among)
        return list(row["transactions"])

    async def send_canary(self, channel: str) -> bool:
        """Returns whether the canary was sent: not while the server's notification queue is half full."""
        row = await self._one("canary", channel)
        return bool(row["was_sent"])

    # Outcomes -------------------------------------------------------------------------------------------------

    async def finish(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Returns the outcomes that were not accepted. Jobs that ended are written first, then jobs that go on.

        Progress that is not written yet comes first of all. Without outcomes, two statements run for no row, to find
        out whether the database rolls back both for any job.
        """
        if len({outcome.job.id for outcome in outcomes}) < len(outcomes):
            return [refused for batch in _without_twins(outcomes) for refused in await self._write(batch)]
        return await self._write(outcomes)

    async def _write(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        if unwritten := [outcome.progress for outcome in outcomes if outcome.progress]:
            await self.write_progress(unwritten)
        ended = sorted([outcome for outcome in outcomes if outcome.kind in ENDS], key=_by_id)
        refused: list[Outcome] = []
        if ended or not outcomes:
            refused += await self._end(ended)
        if len(ended) < len(outcomes) or not outcomes:
            rest = [outcome for outcome in outcomes if outcome.kind not in ENDS]
            detached = [outcome for outcome in rest if outcome.kind is Kind.DETACHED]
            if detached:
                refused += await self._detach(detached)
            if len(detached) < len(rest) or not outcomes:
                refused += await self._give_back([outcome for outcome in rest if outcome.kind is not Kind.DETACHED])
        return refused

    async def _end(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        if self.lanes and (following := self.lanes.following(outcomes)):
            return await self._end_following(self.lanes, outcomes, following)
        row = await self._one_noting("finish", outcomes, *_ends(outcomes))
        if row["told"]:
            self._tell(row["told"])
        if row["gave_units"]:
            await self.let_others_look()
        return _refused(outcomes, row["places"])

    async def let_others_look(self) -> None:
        """Rings for units that were given back. If the ring fails, the outcomes stand, and the claimer rings later."""
        try:
            await self.ring_for_units()
        except DatabaseTrouble:
            if self.lanes:
                self.lanes.owe()

    async def end_in_transaction(self, lent: Lent, outcome: Outcome) -> Any:
        """Ends a job that has succeeded in its handler's transaction. Returns the row of finish_in_transaction.sql.

        Raises like Lent.fetch.
        """
        job, now = outcome.job, monotonic()
        if outcome.progress:
            await lent.fetch(statement("progress"), *_progress([outcome.progress]))
        end = (job.id, job.token, now - outcome.began, now - outcome.ended, outcome.result)
        if _is_noted(outcome):
            noted = (job.tenant_id, job.attempt, self._supervisor)
            return (await lent.fetch(statement("finish_in_transaction_noting"), *end, *noted))[0]
        return (await lent.fetch(statement("finish_in_transaction"), *end))[0]

    def tell_soon(self, told: Sequence[str]) -> None:
        """Has told what finish_in_transaction.sql returned, after the commit."""
        self._tell(told)

    async def _end_following(self, lanes: Lanes, outcomes: Sequence[Outcome], following: Following) -> list[Outcome]:
        """Writes ends, and takes the jobs that follow in the lanes of those that end."""
        jobs: list[Job] = []
        try:
            rows = await self._fetch(
                "finish_following",
                *_ends(outcomes),
                *self._noted(outcomes),
                following.queues,
                following.lanes,
                following.turns_over,
                sorted(following.claimant.tasks),
                following.claimant.pool,
                following.token,
            )
            jobs = _jobs(tuple(row)[2:] for row in rows if row["id"])
        except DatabaseTrouble as error:
            if not error.state:
                lanes.lose(following)
            raise
        finally:
            are_others_told = lanes.settle(outcomes, jobs)
        if rows[0]["told"]:
            self._tell(rows[0]["told"])
        if are_others_told:
            await self.let_others_look()
        return _refused(outcomes, rows[0]["places"])

    async def _one_noting(self, name: str, outcomes: Sequence[Outcome], *arguments: object) -> Any:
        """The row of a statement, which writes the events of the outcomes if there are any.

        By default each outcome but a success and a detachment has an event; with all_events of its queue, each has.
        """
        if not any(map(_is_noted, outcomes)):
            return await self._one(name, *arguments)
        noted, *rest = self._noted(outcomes)
        return await self._one(f"{name}_noting", *arguments, _unless_all(True, noted), *rest)

    def _noted(self, outcomes: Sequence[Outcome]) -> tuple[list[bool], list[str | None], list[int], str]:
        """What the events of the outcomes need: which have one, tenants, attempts, who."""
        return (
            [_is_noted(outcome) for outcome in outcomes],
            _unless_all(None, [outcome.job.tenant_id for outcome in outcomes]),
            [outcome.job.attempt for outcome in outcomes],
            self._supervisor,
        )

    async def tell(self, told: Sequence[str]) -> None:
        await self._fetch("tell", told)

    async def _give_back(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        row = await self._one(
            "give_back",
            [outcome.job.id for outcome in outcomes],
            [outcome.job.token for outcome in outcomes],
            [outcome.kind for outcome in outcomes],
            [outcome.delay for outcome in outcomes],
            [outcome.error for outcome in outcomes],
            [outcome.traceback for outcome in outcomes],
        )
        return _refused(outcomes, row["places"])

    async def _detach(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        row = await self._one_noting(
            "detach",
            outcomes,
            [outcome.job.id for outcome in outcomes],
            [outcome.job.token for outcome in outcomes],
            [outcome.delay for outcome in outcomes],
        )
        return _refused(outcomes, row["places"])

    async def write_progress(self, unwritten: Sequence[Unwritten]) -> set[Fence]:
        """Returns the claims that are still held."""
        row = await self._one("progress", *_progress(unwritten))
        return {unwritten[place - 1].fence for place in row["held"]}

    # Artifacts ------------------------------------------------------------------------------------------------

    async def begin_artifact(self, fence: Fence, name: str, content_type: str, most: int) -> UUID | None:
        """The id of a draft. None, as of the next three: the job is no longer held under the token."""
        row = await self._one("begin_artifact", *fence, name, content_type, most)
        return row["id"]  # type: ignore[no-any-return]

    async def append_artifact(
        self, artifact: UUID, fence: Fence, place: int, data: bytes, largest: int, daily: int
    ) -> int | None:
        row = await self._one("append_artifact", artifact, fence[1], place, data, largest, daily)
        return row["size"]  # type: ignore[no-any-return]

    async def complete_artifact(self, artifact: UUID, fence: Fence, size: int, sha256: bytes) -> bool | None:
        row = await self._one("complete_artifact", artifact, fence[1], size, sha256)
        return row["is_complete"] or None

    async def discard_artifact(self, artifact: UUID, fence: Fence) -> bool:
        await self._fetch("discard_artifact", artifact, fence[1])
        return True

    async def finished_with_token(self, outcomes: Sequence[Outcome]) -> set[Fence]:
        """The claims whose jobs are finished, under the claim's token."""
        return await self._claims_that("finished_with_token", outcomes)

    async def still_held(self, outcomes: Sequence[Outcome]) -> set[Fence]:
        """The claims whose jobs still run, under the claim's token."""
        return await self._claims_that("still_held", outcomes)

    async def _claims_that(self, name: str, outcomes: Sequence[Outcome]) -> set[Fence]:
        ids = [outcome.job.id for outcome in outcomes]
        tokens = [outcome.job.token for outcome in outcomes]
        return {(row["id"], row["token"]) for row in await self._fetch(name, ids, tokens)}

    async def locked_by_others(self, outcomes: Sequence[Outcome]) -> set[UUID]:
        """The ids of the jobs whose rows another session has locked."""
        return {row["id"] for row in await self._fetch("locked_by_others", [outcome.job.id for outcome in outcomes])}


def _progress(unwritten: Sequence[Unwritten]) -> tuple[object, ...]:
    """The arguments of progress.sql."""
    phases = [(*one.fence, phase) for one in unwritten for phase in one.phases]
    return (
        [one.fence[0] for one in unwritten],
        [one.fence[1] for one in unwritten],
        [one.progress for one in unwritten],
        *([phase[column] for phase in phases] for column in range(3)),
    )


def _is_noted(outcome: Outcome) -> bool:
    return outcome.kind not in _UNNOTED or outcome.job.all_events


def _ends(outcomes: Sequence[Outcome]) -> tuple[object, ...]:
    """The arguments of pushq.end_sorted()."""
    now = monotonic()
    return (
        [outcome.job.id for outcome in outcomes],
        [outcome.job.token for outcome in outcomes],
        [now - outcome.began if outcome.began else 0.0 for outcome in outcomes],
        [now - outcome.ended if outcome.ended else 0.0 for outcome in outcomes],
        _unless_all(Kind.SUCCEEDED, [outcome.kind for outcome in outcomes]),
        _unless_all(None, [outcome.error for outcome in outcomes]),
        _unless_all(None, [outcome.traceback for outcome in outcomes]),
        _unless_all(None, [outcome.result for outcome in outcomes]),
    )


def _claim(claimant: Claimant, token: UUID) -> tuple[object, ...]:
    return *_wanted(claimant), claimant.supervisor, claimant.pool, token


def _wanted(claimant: Claimant) -> tuple[list[str], list[str]]:
    """Queues and tasks. Python sorts names by code points, which is the index's order: by the bytes of UTF-8."""
    return list(claimant.queues), sorted(claimant.tasks)


def _by_id(outcome: Outcome) -> bytes:
    """PostgreSQL orders UUIDs by their bytes."""
    return outcome.job.id.bytes


def _without_twins(outcomes: Sequence[Outcome]) -> Iterator[list[Outcome]]:
    """The outcomes in batches in which no job stands twice: after a failover, there may be two claims of one job."""
    rest = list(outcomes)
    while rest:
        batch = {outcome.job.id: outcome for outcome in reversed(rest)}
        yield list(batch.values())
        rest = [outcome for outcome in rest if batch[outcome.job.id] is not outcome]


def _unless_all(usual: T, values: list[T]) -> list[T]:
    """The values, or none if all are usual: elements of arrays cost more on the way than all the rest of a batch."""
    return [] if values.count(usual) == len(values) else values


def _refused(outcomes: Sequence[Outcome], accepted: list[int] | None) -> list[Outcome]:
    """accepted: places in outcomes, from 1; None: all."""
    if accepted is None:
        return []
    places = set(accepted)
    return [outcome for place, outcome in enumerate(outcomes, 1) if place not in places]


def _jobs(rows: Iterable[Any]) -> list[Job]:
    """The statements return a job's columns in the order of Job's fields, a timeout in seconds."""
    return [
        job if job.timeout is None else job._replace(timeout=timedelta(seconds=job.timeout))  # type: ignore[arg-type]
        for job in map(Job[str | None]._make, rows)
    ]
