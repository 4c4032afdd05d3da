"""What happened to each job of a run, and around it: what the checker's rules look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias
from uuid import UUID

from tests.torture.history import (
    Answer,
    Arrival,
    Call,
    Change,
    Code,
    Delivery,
    Event,
    Excuse,
    File,
    Finish,
    History,
    Operation,
    Row,
    Run,
    Violation,
    Wait,
)

FINISHED = frozenset({"succeeded", "failed", "cancelled"})
LATE = 5.0
"""Seconds after its claim within which a job begins, unless its host is frozen: a handler that blocks its pool's loop
holds up what was claimed beside it."""


# What happened to a job -----------------------------------------------------------------------------------------------

Kind: TypeAlias = Literal["insert", "claim", "release", "touch", "finish", "reopen", "rewrite", "appear", "vanish"]
"""release: running → queued, for whatever reason. touch: any other update, such as a retry. finish: into a day. reopen:
out of it again. The last three should never be: an update of a row in a day, an insert there without the delete that
belongs to it, a delete without an insert."""


class Step(NamedTuple):
    """A change of a row. An insert repeats after as before, a delete before as after. stood: the row that earlier steps
    left in that table. held: the token of the claim that then held the job."""

    kind: Kind
    transaction: int
    before: Row
    after: Row
    stood: Row
    held: UUID | None

    def __str__(self) -> str:
        attempt = self.after.attempt if self.kind == "claim" else self.before.attempt
        return f"the {self.kind} of attempt {attempt} in transaction {self.transaction}"


@dataclass(slots=True)
class Story:
    """One job. stands: where its row stands at the end, by whether that is a day; births: how often it was inserted;
    claims: the row after the claim of each attempt; claimed: token and attempt of each claim; abandoned: attempts that
    were cancelled while they ran, whose handlers run on."""

    job: UUID
    calls: list[Call] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    stands: dict[bool, Row] = field(default_factory=dict)
    inserted: Answer | None = None
    births: int = 0
    claims: dict[int, Row] = field(default_factory=dict)
    claimed: set[tuple[UUID | None, int]] = field(default_factory=set)
    abandoned: set[int] = field(default_factory=set)

    def tell(self) -> None:
        """Works out the rest from calls, runs and changes."""
        self.runs.sort(key=lambda run: run.began_at)
        answers = {call.answer for call in self.calls if call.operation == "insert"}
        self.inserted = next((answer for answer in _BEST_FIRST if answer in answers), None)
        held: UUID | None = None
        for kind, transaction, before, after in _acts(self.changes):
            self.steps.append(Step(kind, transaction, before, after, self.stands.get(before.is_finished, before), held))
            self._note(kind, before, after)
            if kind != "touch" and not (before.is_finished and after.is_finished):
                held = after.token if kind == "claim" else None

    def _note(self, kind: Kind, before: Row, after: Row) -> None:
        if kind in ("finish", "reopen", "vanish"):
            self.stands.pop(before.is_finished, None)
        if kind != "vanish":
            self.stands[after.is_finished] = after
        if kind == "insert":
            self.births += 1
        elif kind == "claim":
            self.claims[after.attempt] = after
            self.claimed.add((after.token, after.attempt))
        elif kind == "finish" and before.status == "running" and is_cancelled_by_hand(after):
            self.abandoned.add(before.attempt)

    def knows(self, run: Run) -> bool:
        """Whether the database knows the claim of a run. Without a token, the attempt's number is compared."""
        return run.attempt in self.claims if run.token is None else (run.token, run.attempt) in self.claimed

    @property
    def ends(self) -> list[Step]:
        return [step for step in self.steps if step.kind == "finish"]

    @property
    def is_invited(self) -> bool:
        """Whether it may be there."""
        return self.inserted in ("ok", "unknown")

    def asked(self, operation: Operation) -> int:
        """How often a client may have done this."""
        return sum(call.operation == operation and call.answer != "failed" for call in self.calls)

    def did(self, what: str) -> int:
        """How often a client was answered that this was done."""
        return sum(call.answer == "ok" and call.did == what for call in self.calls)

    def finds(self, code: Code, what: str) -> Violation:
        inserts = [f"{call.answer}, {call.invoked_at:.3f} s" for call in self.calls if call.operation == "insert"]
        return Violation(code, f"job {self.job} (inserted: {'; '.join(inserts) or 'by nobody'}): {what}")


_BEST_FIRST: tuple[Answer, ...] = ("ok", "unknown", "failed")


class _Stories(dict[UUID, Story]):
    def __missing__(self, job: UUID) -> Story:
        return self.setdefault(job, Story(job))


def stories_of(history: History) -> list[Story]:
    stories = _Stories()
    for call in history.calls:
        stories[call.job].calls.append(call)
    for run in history.runs:
        stories[run.job].runs.append(run)
    for change in history.changes:
        if row := change.after or change.before:
            stories[row.job].changes.append(change)
    _gather_others(stories, history)
    for story in stories.values():
        story.tell()
    return list(stories.values())


def _gather_others(stories: _Stories, history: History) -> None:
    for wait in history.waits:
        stories[wait.job].waits.append(wait)
    for finish in history.finishes:
        stories[finish.job].finishes.append(finish)
    for event in history.events or ():
        stories[event.job].events.append(event)
    for file in history.files or ():
        stories[file.job].files.append(file)
    for delivery in history.deliveries or ():
        stories[delivery.job].deliveries.append(delivery)


def _acts(changes: Iterable[Change]) -> Iterator[tuple[Kind, int, Row, Row]]:
    """A job's changes as (what, transaction, before, after): a delete and the insert that follows it in the same
    transaction and the other place are one."""
    removed: tuple[int, Row] | None = None
    for transaction, before, after in ((change.transaction, change.before, change.after) for change in changes):
        if (
            removed
            and after
            and not before
            and removed[0] == transaction
            and removed[1].is_finished != after.is_finished
        ):
            yield "finish" if after.is_finished else "reopen", transaction, removed[1], after
            removed = None
            continue
        if removed:
            yield "vanish", removed[0], removed[1], removed[1]
            removed = None
        if after:
            yield kind_of(before, after), transaction, before or after, after
        elif before:
            removed = transaction, before
    if removed:
        yield "vanish", removed[0], removed[1], removed[1]


def kind_of(before: Row | None, after: Row) -> Kind:
    """Of an insert or an update."""
    if before is None:
        return "appear" if after.is_finished else "insert"
    if before.is_finished:
        return "rewrite"
    if after.status == "running" and after.token != before.token:
        return "claim"
    if before.status == "running" and after.status == "queued":
        return "release"
    return "touch"


def is_cancelled_by_hand(row: Row) -> bool:
    """By pushq.cancel; a handler that raises Cancel leaves its token."""
    return row.status == "cancelled" and row.token is None


def described(run: Run) -> str:
    end = f"{run.ended_at:.3f} s" if run.ended_at is not None else "it died"
    return f"the run of attempt {run.attempt} on host {run.host} (process {run.pid}, {run.began_at:.3f} s until {end})"


# What happened around it ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Absence:
    """A time in which a host stood still or was cut off. is_its_own: it sent no heartbeat, and not only because the
    server was away."""

    began_at: float
    ended_at: float
    is_its_own: bool


class Circumstances:
    """The limits, the faults, and how long processes lived."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._crashes = [excuse for excuse in history.excuses if excuse.host is None]
        self._absences: dict[int, list[Absence]] = {}
        self.arrivals: dict[UUID, list[Arrival]] = {}
        for arrival in history.arrivals:
            self.arrivals.setdefault(arrival.delivery, []).append(arrival)
        self.slowest_call_in_calm = max(
            (call.returned_at - call.invoked_at for call in history.calls if self.is_calm(call.invoked_at)), default=0.0
        )
        """Seconds."""
        self._last_words = dict[tuple[int, int], float]()
        for run in history.runs:
            process = run.host, run.pid
            said_at = run.began_at if run.ended_at is None else run.ended_at
            self._last_words[process] = max(said_at, self._last_words.get(process, said_at))

    def failures_allowed(self, row: Row) -> int:
        return row.max_attempts or self.history.allowed.get(row.task, self.history.failures_allowed)

    def ended_at(self, run: Run) -> float:
        """When a run was over. A run without a recorded end lasted until its process died, or at least until the last
        record of the process."""
        if run.ended_at is not None:
            return run.ended_at
        return self._last_words[run.host, run.pid] if run.died_at is None else run.died_at

    def lived_on(self, run: Run, later: Run) -> bool:
        """Whether its process was heard of when it had ended and the later run had begun."""
        return self.ended_at(run) <= later.began_at < self._last_words[run.host, run.pid]

    def was_away(self, loser: Run, winner: Run) -> bool:
        """Whether the loser's host sent no heartbeat for so long, before the winner began, that it lost its jobs.

        Half a lease is enough: its last heartbeat may have been a third of a lease old when the absence began, and the
        next may come late when it ends. A guest has no other witness than its lease.
        """
        if loser.kept_until is not None:
            return winner.began_at >= loser.kept_until
        enough = self.history.lease / 2
        return any(
            absence.began_at + enough <= winner.began_at and loser.began_at <= absence.ended_at + LATE
            for absence in self._absences_of(loser.host)
            if absence.is_its_own and absence.ended_at - absence.began_at >= enough
        )

    def is_calm(self, instant: float) -> bool:
        """Whether all faults were over."""
        return self.history.calm_from is not None and instant >= self.history.calm_from

    def is_after_a_crash(self, instant: float) -> bool:
        """Whether the server may have crashed around it, and forgotten what it had committed a second before."""
        return any(crash.began_at <= instant <= crash.ended_at + LATE for crash in self._crashes)

    def was_forgotten(self, lost: Run, *others: Run) -> bool:
        """Whether the server may have crashed and forgotten the claim of `lost`, before the others were claimed.

        The forgotten claim was committed within the second before the crash. Its run begins soon after the claim.
        """
        return any(
            crash.began_at <= lost.began_at <= self._held_up_until(lost.host, crash.ended_at) + LATE
            and all(crash.began_at <= other.began_at for other in others)
            for crash in self._crashes
        )

    def _held_up_until(self, host: int, instant: float) -> float:
        """The instant, or the end of the absence of the host in which it falls, or which follows at once."""
        for absence in self._absences_of(host):
            if absence.began_at <= instant + LATE:
                instant = max(instant, absence.ended_at)
        return instant

    def _absences_of(self, host: int) -> list[Absence]:
        """Of a host, in their order. Two that leave less than a heartbeat between them are one."""
        if host in self._absences:
            return self._absences[host]
        absences: list[Absence] = []
        for excuse in sorted(self._excuses_of(host), key=lambda excuse: excuse.began_at):
            is_its_own = excuse.host is not None and excuse.may_cost_jobs
            if absences and excuse.began_at <= absences[-1].ended_at + self.history.lease / 3:
                absences[-1].ended_at = max(absences[-1].ended_at, excuse.ended_at)
                absences[-1].is_its_own |= is_its_own
            else:
                absences.append(Absence(excuse.began_at, excuse.ended_at, is_its_own))
        self._absences[host] = absences
        return absences

    def _excuses_of(self, host: int) -> Iterator[Excuse]:
        return (excuse for excuse in self.history.excuses if excuse.host in (host, None))


def was_forgotten(story: Story, circumstances: Circumstances, lost: Run, other: Run) -> bool:
    """By its attempt alone a forgotten claim cannot be told from one that was given back before it was run."""
    is_known = lost.token is not None and story.knows(lost)
    return not is_known and circumstances.was_forgotten(lost, other)


Rule: TypeAlias = Callable[[Story, Circumstances], Iterator[Violation]]
CommonRule: TypeAlias = Callable[[Sequence[Story], Circumstances], Iterator[Violation]]
