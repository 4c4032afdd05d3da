"""Judges one run: what its witnesses say of it, and cannot all say unless pushq keeps its promises.

Theory of operation
-------------------
Jobs do not depend on one another, so the history is taken apart by job: a *story* is what clients asked for one job,
its runs, and its *steps*. A step is one committed change of its row, or a delete and an insert that belong together: a
finish, or a retry by hand. Each carries the row as it stood before, by the steps so far, and the token of the claim
that then held the job. So a rule looks at one step at a time, and what a wrong step broke is not held against the next.

The database's changes have an order and no instants, calls and runs have instants. The two are joined by job and
attempt, or token, and nowhere by time.

A rule is a generator over one story, or over all; `check` chains them. Here are the rules of every job; those of waits,
guests, cancels, events, artifacts, webhooks and needs have modules of their own. All take time linear in the history,
but for the sorting of runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from uuid import UUID

from tests.torture.history import Change, History, Registration, Row, Run, Violation
from tests.torture.rules_of_artifacts import COMMON_RULES_OF_ARTIFACTS, RULES_OF_ARTIFACTS
from tests.torture.rules_of_cancels import RULES_OF_CANCELS, ends_a_cancel
from tests.torture.rules_of_events import RULES_OF_EVENTS
from tests.torture.rules_of_guests import RULES_OF_GUESTS
from tests.torture.rules_of_needs import COMMON_RULES_OF_NEEDS
from tests.torture.rules_of_waits import RULES_OF_WAITS
from tests.torture.rules_of_webhooks import COMMON_RULES_OF_WEBHOOKS, RULES_OF_WEBHOOKS
from tests.torture.stories import (
    FINISHED,
    Circumstances,
    CommonRule,
    Kind,
    Rule,
    Step,
    Story,
    described,
    is_cancelled_by_hand,
    kind_of,
    stories_of,
    was_forgotten,
)


def check(history: History) -> list[Violation]:
    """Every violation; none for a run in which every promise was kept."""
    circumstances, stories = Circumstances(history), stories_of(history)
    of_one = (found for story in stories for rule in RULES for found in rule(story, circumstances))
    of_all = (found for rule in COMMON_RULES for found in rule(stories, circumstances))
    return [*of_one, *of_all]


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
        if not _brings_an_outcome(step) or step.after.status == "failed" or ends_a_cancel(step):
            continue
        if step.before.token not in ended and step.before.attempt not in ended:
            yield story.finds("LOST", f"{step} brings an outcome ({step.after.status}), and no run of it ever ended")
        elif step.after.status == "succeeded" and step.before.token in raised:
            yield story.finds("LOST", f"{step} says that it succeeded, and its handler raised")


def _tokens_of_those_that_raised(story: Story) -> set[UUID | None]:
    return {run.token for run in story.runs if run.returned is False}


def lost_answers(story: Story, _: Circumstances) -> Iterator[Violation]:
    """What pushq.cancel and pushq.retry answered to have done is committed."""
    cancelled = sum(step.kind == "finish" and is_cancelled_by_hand(step.after) for step in story.steps)
    queued = sum(step.kind in ("reopen", "touch") and step.after.status == "queued" for step in story.steps)
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
        yield story.finds("GHOST", f"it was run: {described(story.runs[0])}")


def rows_too_many(story: Story, _: Circumstances) -> Iterator[Violation]:
    """An insert is carried out once, also when its answer was lost: no client inserts an id again."""
    if story.is_invited and story.births > 1:
        yield story.finds("GHOST", f"it was inserted once and committed {story.births} times")


def runs_of_nothing(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job whose insert was not answered, and was not carried out, is not run and has no history."""
    if story.inserted == "unknown" and not story.births and (story.runs or story.steps):
        what = described(story.runs[0]) if story.runs else str(story.steps[0])
        yield story.finds("GHOST", f"its insert was never committed, and yet there is {what}")


def runs_too_early(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job is not run before somebody asks for it."""
    asked_at = min((call.invoked_at for call in story.calls if call.operation == "insert"), default=None)
    if story.is_invited and asked_at is not None and story.runs and story.runs[0].began_at < asked_at:
        yield story.finds("GHOST", f"it ran before it was inserted: {described(story.runs[0])}")


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
                yield story.finds("MUTEX", f"two run at once: {described(other)}, and {described(run)}")
        running.append(run)


def _is_excused(story: Story, circumstances: Circumstances, loser: Run, winner: Run) -> bool:
    if loser.attempt in story.abandoned or circumstances.was_away(loser, winner):
        return True
    return was_forgotten(story, circumstances, loser, winner)


def runs_of_one_attempt(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """An attempt is run once, whether or not its runs overlap, unless the server crashed and forgot one of its two
    claims."""
    last: dict[int, Run] = {}
    for run in story.runs:
        other = last.get(run.attempt)
        if other and not any(was_forgotten(story, circumstances, *pair) for pair in ((other, run), (run, other))):
            yield story.finds("MUTEX", f"one attempt is run twice: {described(other)}, and {described(run)}")
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
            lives = winner and (loser.kept_until is not None or circumstances.lived_on(loser, winner))
            if winner and lives and not circumstances.was_away(loser, winner):
                yield story.finds("MUTEX", f"{step} charged {described(loser)} with a crash, and its process lived")


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
        elif one.before and (row := one.after) and kind_of(one.before, row) == "claim":
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
                what = f"{described(other)} of job {other.job}, and {described(run)}"
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
        if not _is_edge(step.kind, step.before.status, step.after.status) and not _is_remark(step):
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


def _is_remark(step: Step) -> bool:
    """On a running job: that somebody waits for it, or waits no more, that it is being cancelled, or what a new limit
    has it need."""
    before, after = step.before, step.after
    is_remark = before.waiters != after.waiters or after.is_cancelling > before.is_cancelling
    is_remark |= before.needs != after.needs
    return step.kind == "touch" and before.status == after.status == "running" and is_remark


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
            yield story.finds("ATT", f"the database never handed out what was run: {described(run)}")


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
    *RULES_OF_GUESTS,
    *RULES_OF_CANCELS,
    *RULES_OF_WAITS,
    *RULES_OF_EVENTS,
    *RULES_OF_ARTIFACTS,
    *RULES_OF_WEBHOOKS,
)
COMMON_RULES: tuple[CommonRule, ...] = (
    claims_of_the_declared_dead,
    suspects_in_company,
    tokens_used_again,
    *COMMON_RULES_OF_ARTIFACTS,
    *COMMON_RULES_OF_WEBHOOKS,
    *COMMON_RULES_OF_NEEDS,
    leftovers,
)
