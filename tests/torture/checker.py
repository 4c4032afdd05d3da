"""Judges one run: what three witnesses say of it, and cannot all say if pushq keeps its promises.

Theory of operation
-------------------
Jobs do not depend on one another, so the history is taken apart by job: a *story* is what clients asked for one job,
its runs, and its *steps*. A step is one committed change of its row, or a delete and an insert that belong together: a
finish, or a retry by hand. Each carries the row as it stood before, by the steps so far, and the token of the claim
that then held the job. So a rule looks at one step at a time, and what a wrong step broke is not held against the next.

The database's changes have an order and no instants, calls and runs have instants. The two are joined by job and
attempt, or token, and nowhere by time.

A rule is a generator over one story, or over all; `check` chains them. All take time linear in the history, but for the
sorting of runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple, TypeAlias
from uuid import UUID

from tests.torture.history import (
    Answer,
    Call,
    Change,
    Code,
    Excuse,
    History,
    Operation,
    Registration,
    Row,
    Run,
    Violation,
)

FINISHED = frozenset({"succeeded", "failed", "cancelled"})
LATE = 5.0
"""Seconds after its claim within which a job begins, unless its host is frozen: a handler that blocks its pool's loop
holds up what was claimed beside it."""


def check(history: History) -> list[Violation]:
    """Every violation; none for a run in which every promise was kept."""
    circumstances, stories = Circumstances(history), _stories(history)
    of_one = (found for story in stories for rule in RULES for found in rule(story, circumstances))
    of_all = (found for rule in COMMON_RULES for found in rule(stories, circumstances))
    return [*of_one, *of_all]


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
        elif kind == "finish" and before.status == "running" and _is_cancelled_by_hand(after):
            self.abandoned.add(before.attempt)

    def knows(self, run: Run) -> bool:
        """Whether the database knows the claim of a run. Without a token, the attempt's number is compared."""
        return run.attempt in self.claims if run.token is None else (run.token, run.attempt) in self.claimed

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


def _stories(history: History) -> list[Story]:
    stories: dict[UUID, Story] = {}

    def story_of(job: UUID) -> Story:
        return stories.get(job) or stories.setdefault(job, Story(job))

    for call in history.calls:
        story_of(call.job).calls.append(call)
    for run in history.runs:
        story_of(run.job).runs.append(run)
    for change in history.changes:
        if row := change.after or change.before:
            story_of(row.job).changes.append(change)
    for story in stories.values():
        story.tell()
    return list(stories.values())


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
            yield _kind(before, after), transaction, before or after, after
        elif before:
            removed = transaction, before
    if removed:
        yield "vanish", removed[0], removed[1], removed[1]


def _kind(before: Row | None, after: Row) -> Kind:
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


def _is_cancelled_by_hand(row: Row) -> bool:
    """By pushq.cancel; a handler that raises Cancel leaves its token."""
    return row.status == "cancelled" and row.token is None


def _run(run: Run) -> str:
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
        next may come late when it ends.
        """
        enough = self.history.lease / 2
        return any(
            absence.began_at + enough <= winner.began_at and loser.began_at <= absence.ended_at + LATE
            for absence in self._absences_of(loser.host)
            if absence.is_its_own and absence.ended_at - absence.began_at >= enough
        )

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


Rule: TypeAlias = Callable[[Story, Circumstances], Iterator[Violation]]
CommonRule: TypeAlias = Callable[[Sequence[Story], Circumstances], Iterator[Violation]]


# LOST -----------------------------------------------------------------------------------------------------------------


def lost_inserts(story: Story, _: Circumstances) -> Iterator[Violation]:
    """An insert that was answered `ok` is committed. (An `unknown` one may be.)"""
    if story.inserted == "ok" and not story.births:
        yield story.finds("LOST", "its insert was answered, and the database never committed it")


def lost_jobs(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job that was committed stands in a day at the end, whatever was answered. GHOST and FENCE check that the job
    stands there once, and that only a retry takes the job out of its day."""
    if not (story.is_invited and story.births):
        return
    if row := story.stands.get(False):
        yield story.finds("LOST", f"it is still {row.status} at the end, after attempt {row.attempt}")
    elif not story.stands and not any(step.kind == "vanish" and step.before.is_finished for step in story.steps):
        yield story.finds("LOST", f"its row is gone; the last was {story.steps[-1]} and it was not finished")


def outcomes_without_a_run(story: Story, _: Circumstances) -> Iterator[Violation]:
    """An outcome needs a run that matches. A success, a cancel by the handler and a retry after a failure need a run
    that ended, and a success a run that returned. (A job that failed for good may have had a payload that no handler
    takes. A job that goes on at no charge may never have begun.)"""
    ended = {run.token or run.attempt for run in story.runs if run.ended_at is not None}
    raised = _tokens_of_those_that_raised(story)
    for step in story.steps:
        if not _brings_an_outcome(step) or step.after.status == "failed":
            continue
        if step.before.token not in ended and step.before.attempt not in ended:
            yield story.finds("LOST", f"{step} brings an outcome ({step.after.status}), and no run of it ever ended")
        elif step.after.status == "succeeded" and step.before.token in raised:
            yield story.finds("LOST", f"{step} says that it succeeded, and its handler raised")


def _tokens_of_those_that_raised(story: Story) -> set[UUID | None]:
    return {run.token for run in story.runs if run.returned is False}


def lost_answers(story: Story, _: Circumstances) -> Iterator[Violation]:
    """What pushq.cancel and pushq.retry answered to have done is committed."""
    cancelled = sum(step.kind == "finish" and _is_cancelled_by_hand(step.after) for step in story.steps)
    queued = sum(step.kind in ("reopen", "touch") for step in story.steps)
    for did, done in (("cancelled", cancelled), ("queued", queued)):
        if story.did(did) > done:
            yield story.finds(
                "LOST", f"clients were answered {did!r} {story.did(did)} times, and it was done {done} times"
            )


# GHOST ----------------------------------------------------------------------------------------------------------------


def uninvited_jobs(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job whose insert was rolled back, or which nobody inserted, has no row, ever, and is not run."""
    if story.is_invited:
        return
    if story.steps:
        yield story.finds("GHOST", f"the database committed it: {story.steps[0]}")
    elif story.runs:
        yield story.finds("GHOST", f"it was run: {_run(story.runs[0])}")


def rows_too_many(story: Story, _: Circumstances) -> Iterator[Violation]:
    """An insert is carried out once, also when its answer was lost: no client inserts an id again."""
    if story.is_invited and story.births > 1:
        yield story.finds("GHOST", f"it was inserted once and committed {story.births} times")


def runs_of_nothing(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job whose insert was not answered, and was not carried out, is not run and has no history."""
    if story.inserted == "unknown" and not story.births and (story.runs or story.steps):
        what = _run(story.runs[0]) if story.runs else str(story.steps[0])
        yield story.finds("GHOST", f"its insert was never committed, and yet there is {what}")


def runs_too_early(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job is not run before somebody asks for it."""
    asked_at = min((call.invoked_at for call in story.calls if call.operation == "insert"), default=None)
    if story.is_invited and asked_at is not None and story.runs and story.runs[0].began_at < asked_at:
        yield story.finds("GHOST", f"it ran before it was inserted: {_run(story.runs[0])}")


# MUTEX ----------------------------------------------------------------------------------------------------------------


def overlapping_runs(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """Two attempts at a job do not run at the same time. The lower attempt has lost the job. Excuses: a host
    without heartbeats for long enough, a cancel by hand, and a claim that a crash of the server forgot. A frozen server
    is no excuse: a sweeper must not declare dead a supervisor that the sweeper could not hear."""
    running: list[Run] = []
    for run in story.runs:
        running = [other for other in running if circumstances.ended_at(other) > run.began_at]
        for other in running:
            loser, winner = sorted((other, run), key=lambda one: one.attempt)
            if loser.attempt < winner.attempt and not _is_excused(story, circumstances, loser, winner):
                yield story.finds("MUTEX", f"two run at once: {_run(other)}, and {_run(run)}")
        running.append(run)


def _is_excused(story: Story, circumstances: Circumstances, loser: Run, winner: Run) -> bool:
    if loser.attempt in story.abandoned or circumstances.was_away(loser, winner):
        return True
    return _was_forgotten(story, circumstances, loser, winner)


def _was_forgotten(story: Story, circumstances: Circumstances, lost: Run, other: Run) -> bool:
    """By its attempt alone a forgotten claim cannot be told from one that was given back before it was run."""
    is_known = lost.token is not None and story.knows(lost)
    return not is_known and circumstances.was_forgotten(lost, other)


def runs_of_one_attempt(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """An attempt is run once, whether or not its runs overlap, unless the server crashed and forgot one of its two
    claims."""
    last: dict[int, Run] = {}
    for run in story.runs:
        other = last.get(run.attempt)
        if other and not any(_was_forgotten(story, circumstances, *pair) for pair in ((other, run), (run, other))):
            yield story.finds("MUTEX", f"one attempt is run twice: {_run(other)}, and {_run(run)}")
        last[run.attempt] = run


def crashes_of_the_living(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """A crash is charged to an attempt when its process has died, or its host was away for long enough: not to one
    whose process is heard of after the job has begun to run elsewhere. (Where the runs overlap, that has been said.)"""
    for step in story.steps:
        if step.kind not in ("finish", "release") or step.after.crashes <= step.before.crashes:
            continue
        charged = (run for run in story.runs if (run.token or run.attempt) in (step.before.token, step.before.attempt))
        for loser in charged:
            winner = next((run for run in story.runs if run.attempt > loser.attempt), None)
            if winner and circumstances.lived_on(loser, winner) and not circumstances.was_away(loser, winner):
                yield story.finds("MUTEX", f"{step} charged {_run(loser)} with a crash, and its process lived")


def claims_of_a_held_job(story: Story, _: Circumstances) -> Iterator[Violation]:
    """Between two claims of a job the first one ends: by a release, a requeue, or a finish."""
    for step in story.steps:
        if step.kind == "claim" and step.held is not None:
            yield story.finds("MUTEX", f"{step} takes it while the claim {step.held} holds it")


def claims_of_the_declared_dead(_: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """A supervisor whose row was deleted, since others took it for dead or because it has said goodbye, claims nothing
    until its next heartbeat. (A transaction that is older than that which deleted it may not have seen it.)"""
    gone = dict[str, int]()
    for one in _in_order(circumstances.history):
        if isinstance(one, Registration):
            if one.is_there:
                gone.pop(one.supervisor, None)
            else:
                gone[one.supervisor] = one.transaction
        elif one.before and (row := one.after) and _kind(one.before, row) == "claim":
            name = row.supervisor or ""
            if one.transaction > gone.get(name, one.transaction):
                what = f"attempt {row.attempt} of job {row.job} was claimed in transaction {one.transaction}"
                yield Violation("MUTEX", f"{what} by {name}, whose row was gone")


def _in_order(history: History) -> Iterator[Change | Registration]:
    """As they were committed."""
    registrations = defaultdict[int, list[Registration]](list)
    for registration in history.registrations:
        registrations[registration.place].append(registration)
    for place, change in enumerate(history.changes):
        yield from registrations[place]
        yield change


def suspects_in_company(stories: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """A job that one more crash ends runs alone in its process, so that nobody else is charged with its crash."""
    processes = defaultdict[tuple[int, int], list[tuple[Run, Story]]](list)
    for story in stories:
        for run in story.runs:
            processes[run.host, run.pid].append((run, story))
    for those in processes.values():
        anybody: Run | None = None  # of those so far, who runs for longest
        suspect: Run | None = None
        for run, story in sorted(those, key=lambda one: one[0].began_at):
            is_suspect = _is_suspect(run, story, circumstances)
            other = anybody if is_suspect else suspect
            if other and circumstances.ended_at(other) > run.began_at:
                what = f"{_run(other)} of job {other.job}, and {_run(run)}"
                yield story.finds("MUTEX", f"one of two that share a process has killed two before: {what}")
            anybody = _longer(anybody, run, circumstances)
            suspect = _longer(suspect, run, circumstances) if is_suspect else suspect


def _is_suspect(run: Run, story: Story, circumstances: Circumstances) -> bool:
    claimed = story.claims.get(run.attempt)
    return claimed is not None and claimed.crashes >= circumstances.history.crashes_allowed - 1


def _longer(one: Run | None, other: Run, circumstances: Circumstances) -> Run:
    return one if one and circumstances.ended_at(one) > circumstances.ended_at(other) else other


# FENCE ----------------------------------------------------------------------------------------------------------------


def second_finishes(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A finished row comes from an unfinished one, which is gone then, and a claim is finished once."""
    finished = set[UUID]()
    for step in story.steps:
        if step.kind == "appear" and story.is_invited:
            yield story.finds("FENCE", f"{step} says {step.after.status} beside the row that it should have taken")
        elif step.kind == "finish" and step.after.token in finished:
            yield story.finds("FENCE", f"{step} finishes the claim {step.after.token} again")
        if step.kind in ("appear", "finish") and step.after.token:
            finished.add(step.after.token)


def writes_by_strangers(story: Story, _: Circumstances) -> Iterator[Violation]:
    """Who finishes or releases a job holds it: the row has the token of the last claim, and so has the finished one, if
    it has any."""
    for step in story.steps:
        if step.kind not in ("finish", "release"):
            continue
        if step.before.token != step.held:
            yield story.finds("FENCE", f"{step} was under token {step.before.token} and claim {step.held} held it")
        elif step.kind == "finish" and step.after.token not in (None, step.held):
            yield story.finds("FENCE", f"{step} left token {step.after.token} and claim {step.held} held it")


def finishes_without_a_token(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A finished row has no token only if somebody cancelled the job by hand, or a crash ended it while it ran."""
    cancelled = 0
    for step in story.steps:
        if step.kind != "finish" or step.after.token is not None:
            continue
        if step.after.status == "cancelled":
            cancelled += 1
            if cancelled > story.asked("cancel"):
                yield story.finds("FENCE", f"{step} says cancelled for the {cancelled}. time: nobody asked for that")
        elif not (
            step.after.status == "failed"
            and step.before.status == "running"
            and step.after.crashes > step.before.crashes
        ):
            yield story.finds("FENCE", f"{step} says {step.after.status}, and nobody held the job")


def outcomes_of_another_claim(story: Story, _: Circumstances) -> Iterator[Violation]:
    """Where a result or an error tells from which claim it comes, that is the claim that held the job. (An old error
    stays with a job that is released, requeued or cancelled by hand: there it tells nothing.)"""
    for step in story.steps:
        if _brings_an_outcome(step) and step.after.told not in (None, step.held):
            yield story.finds("FENCE", f"{step} is the outcome of claim {step.after.told}, and {step.held} held it")


def _brings_an_outcome(step: Step) -> bool:
    if step.kind == "finish":
        return step.after.token is not None
    return step.kind == "release" and step.after.failures > step.before.failures


def changed_days(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A row in a day stays as it is, until pushq.retry takes it out of there because somebody asked for it."""
    reopened = 0
    for step in story.steps:
        if step.kind == "rewrite":
            yield story.finds("FENCE", f"{step} changed a finished row, {step.before} to {step.after}")
        elif step.kind == "vanish" and step.before.is_finished:
            yield story.finds("FENCE", f"{step} took a finished row away")
        elif step.kind == "reopen":
            reopened += 1
            if reopened > story.asked("retry"):
                yield story.finds("FENCE", f"{step} is the {reopened}. of a finished job: nobody asked for that")
            if step.before != step.stood:
                yield story.finds("FENCE", f"{step} found {step.before}, and what was finished is {step.stood}")


def tokens_used_again(stories: Sequence[Story], _: Circumstances) -> Iterator[Violation]:
    """A token is one claim's: one statement's, and once a job."""
    used: dict[UUID, int] = {}
    for story in stories:
        its_own = set[UUID]()
        for step in story.steps:
            if step.kind == "claim" and (token := step.after.token):
                if used.setdefault(token, step.transaction) != step.transaction or token in its_own:
                    yield story.finds(
                        "FENCE", f"{step} was under token {token}, as was one in transaction {used[token]}"
                    )
                its_own.add(token)


# ATT ------------------------------------------------------------------------------------------------------------------


def attempts(story: Story, _: Circumstances) -> Iterator[Violation]:
    """attempt begins at 0, rises by one at each claim, and changes at no other time, by hand neither."""
    for step in story.steps:
        expected = 0 if step.kind == "insert" else step.before.attempt + (step.kind == "claim")
        if step.kind != "rewrite" and step.after.attempt != expected:
            yield story.finds("ATT", f"{step} set attempt to {step.after.attempt}, not {expected}")


def charges(story: Story, _: Circumstances) -> Iterator[Violation]:
    """failures and crashes begin at 0. An attempt that ended raises at most one of them, and by one; the outcome says
    which. They go back to 0 together, when somebody retries the job by hand, and fall at no other time."""
    resets = 0
    for step in story.steps:
        if step.kind in ("appear", "rewrite", "vanish"):
            continue
        failed, crashed = step.after.failures - step.before.failures, step.after.crashes - step.before.crashes
        is_clean = step.after.failures == step.after.crashes == 0
        if step.kind in ("insert", "reopen"):
            is_right = is_clean
        elif step.kind == "touch" and is_clean and (failed, crashed) != (0, 0):
            resets += 1
            is_right = resets <= story.asked("retry")
        else:
            is_right = (failed, crashed) in _may_charge(step)
        if not is_right:
            counts = f"from {_counts(step.before)} to {_counts(step.after)}"
            yield story.finds("ATT", f"{step} took its counts {counts}, and left it {step.after.status}")


def _may_charge(step: Step) -> set[tuple[int, int]]:
    """By how much failures and crashes may rise."""
    if step.kind == "release":
        return {(0, 0), (1, 0), (0, 1)}
    if step.kind == "finish" and step.after.status == "failed":
        # Without a token and without a crash it is a matter of FENCE.
        return {(1, 0)} if step.after.token is not None else {(0, 1), (0, 0)}
    return {(0, 0)}


def limits(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """A job goes on while its failures and its crashes are below the limits, and ends when either reaches its limit.
    Fewer crashes never end a job."""
    history = circumstances.history
    for step in story.steps:
        row, before = step.after, step.before
        most = circumstances.failures_allowed(row)
        for name, count, rose, allowed in (
            ("failures", row.failures, row.failures > before.failures, most),
            ("crashes", row.crashes, row.crashes > before.crashes, history.crashes_allowed),
        ):
            if rose and (count > allowed or (count == allowed and not row.is_finished)):
                yield story.finds("ATT", f"{step} leaves it {row.status} with {count} {name} of {allowed}")
        if step.kind == "finish" and before.crashes < row.crashes < history.crashes_allowed:
            yield story.finds("ATT", f"{step} ended it after {row.crashes} crashes of {history.crashes_allowed}")


def failures_too_soon(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """A handler that raised fails its job for good once that has failed as often as it may, and no sooner."""
    raised = _tokens_of_those_that_raised(story)
    for step in story.steps:
        if step.kind == "finish" and step.after.status == "failed" and step.after.token in raised:
            most = circumstances.failures_allowed(step.after)
            if step.after.failures < most:
                yield story.finds("ATT", f"{step} ended it after {step.after.failures} failures of {most}")


MAY_RETURN_AND_FAIL = frozenset({"poison", "stubborn"})
"""Tasks whose result cannot be stored, or whose time has run out when they return."""


def failures_of_those_that_returned(story: Story, _: Circumstances) -> Iterator[Violation]:
    """An attempt whose handler returned is no failure, whatever becomes of its outcome on the way."""
    returned = {run.token for run in story.runs if run.returned and run.token}
    for step in story.steps:
        if (
            step.kind in ("finish", "release")
            and step.after.failures > step.before.failures
            and step.before.token in returned
            and step.after.task not in MAY_RETURN_AND_FAIL
        ):
            yield story.finds("ATT", f"{step} charges a failure, and its handler returned")


def edges(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A status changes as the state automaton has it. (That a job which was queued does not succeed or fail, and that
    one which runs is not claimed, are matters of FENCE and MUTEX.)"""
    for step in story.steps:
        if not _is_edge(step.kind, step.before.status, step.after.status):
            yield story.finds("ATT", f"{step} took it from {step.before.status} to {step.after.status}")


def _is_edge(kind: Kind, before: str, after: str) -> bool:
    match kind:
        case "insert":
            return after == "queued"
        case "touch":
            return before == after == "queued"
        case "finish":
            return before in ("queued", "running") and after in FINISHED
        case "reopen":
            return before in FINISHED and after == "queued"
        case "claim":
            return before in ("queued", "running")
    return True  # a release by its name, and what should never be is judged as such


def unseen_changes(story: Story, _: Circumstances) -> Iterator[Violation]:
    """What a step finds of an unfinished job is what the one before left."""
    for step in story.steps:
        if step.kind != "insert" and not step.before.is_finished and _counts(step.before) != _counts(step.stood):
            yield story.finds("ATT", f"{step} found {_counts(step.before)} where there was {_counts(step.stood)}")


def _counts(row: Row) -> dict[str, int]:
    return {"attempt": row.attempt, "failures": row.failures, "crashes": row.crashes}


def runs_without_a_claim(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """What is run was claimed, and the database knows it, unless it crashed and forgot."""
    for run in story.runs if story.births else ():
        if not story.knows(run) and not circumstances.was_forgotten(run):
            yield story.finds("ATT", f"the database never handed out what was run: {_run(run)}")


# CLEAN ----------------------------------------------------------------------------------------------------------------


def leftovers(_: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """Nothing is left: no running row, no transaction, no process, no socket, and no line that tells of a bug."""
    left = circumstances.history.leftovers
    for one in fields(left):
        if value := getattr(left, one.name):
            yield Violation("CLEAN", f"{one.name.replace('_', ' ')} left behind: {value}")


RULES: tuple[Rule, ...] = (
    lost_inserts,
    lost_jobs,
    outcomes_without_a_run,
    lost_answers,
    uninvited_jobs,
    rows_too_many,
    runs_of_nothing,
    runs_too_early,
    overlapping_runs,
    runs_of_one_attempt,
    crashes_of_the_living,
    claims_of_a_held_job,
    second_finishes,
    writes_by_strangers,
    finishes_without_a_token,
    outcomes_of_another_claim,
    changed_days,
    attempts,
    charges,
    limits,
    failures_too_soon,
    failures_of_those_that_returned,
    edges,
    unseen_changes,
    runs_without_a_claim,
)
COMMON_RULES: tuple[CommonRule, ...] = (claims_of_the_declared_dead, suspects_in_company, tokens_used_again, leftovers)
