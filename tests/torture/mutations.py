"""Ways to make a good history bad: each takes something away, adds something, or changes something, and says what the
checker must then call it. None: this history has nothing to do it to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from tests.torture.histories import Hero, Tale
from tests.torture.history import Call, Change, Code, History, Leftovers, Row, Run

T = TypeVar("T")
Mutation: TypeAlias = Callable[[History, random.Random], History | None]

STRANGER = UUID(int=77)
NEVER = 99_999


def _pick(chance: random.Random, those: Iterator[T] | list[T]) -> T | None:
    options = list(those)
    return chance.choice(options) if options else None


def _finishes(history: History) -> Iterator[tuple[int, Row, Row]]:
    """Where the delete of each finish is, the row before and after."""
    for place, (one, other) in enumerate(pairwise(history.changes)):
        if one.after is None and one.before and other.before is None and other.after and other.after.is_finished:
            yield place, one.before, other.after


def _updates(history: History, before: str, after: str) -> Iterator[tuple[int, Row, Row]]:
    for place, change in enumerate(history.changes):
        if change.before and change.after and (change.before.status, change.after.status) == (before, after):
            yield place, change.before, change.after


def _with_after(history: History, place: int, **columns: Any) -> History:
    """The row that a change left, changed."""
    change = history.changes[place]
    assert change.after
    return _with_change(history, place, replace(change, after=replace(change.after, **columns)))


def _with_change(history: History, place: int, *changes: Change) -> History:
    return replace(history, changes=(*history.changes[:place], *changes, *history.changes[place + 1 :]))


def _without(history: History, *places: int) -> History:
    return replace(history, changes=tuple(one for place, one in enumerate(history.changes) if place not in places))


def _append(history: History, *changes: tuple[Row | None, Row | None]) -> History:
    return replace(history, changes=history.changes + tuple(Change(NEVER, *change) for change in changes))


# LOST -----------------------------------------------------------------------------------------------------------------


def the_last_finish_is_missing(history: History, chance: random.Random) -> History | None:
    last = {before.job: place for place, before, _ in _finishes(history)}
    place = _pick(chance, list(last.values()))
    return None if place is None else _without(history, place, place + 1)


def nothing_of_an_insert_was_committed(history: History, chance: random.Random) -> History | None:
    call = _pick(chance, [call for call in history.calls if call.operation == "insert" and call.answer == "ok"])
    if call is None:
        return None
    changes = (
        one for one in history.changes if call.job not in (one.after and one.after.job, one.before and one.before.job)
    )
    runs = (run for run in history.runs if run.job != call.job)
    return replace(history, changes=tuple(changes), runs=tuple(runs))


def the_runs_of_a_success_are_missing(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, ((row.job, row.attempt) for _, _, row in _finishes(history) if row.status == "succeeded"))
    if found is None:
        return None
    return replace(history, runs=tuple(run for run in history.runs if (run.job, run.attempt) != found))


def a_row_is_taken_away_unfinished(history: History, chance: random.Random) -> History | None:
    last = {before.job: place for place, before, _ in _finishes(history)}
    place = _pick(chance, list(last.values()))
    return None if place is None else _without(history, place + 1)


# GHOST ----------------------------------------------------------------------------------------------------------------


def somebody_who_was_not_asked_comes(history: History, _: random.Random) -> History:
    tale = Tale()
    hero = Hero(tale, STRANGER).appear().run().succeed()
    ghost = [replace(change, transaction=NEVER + change.transaction) for change in tale.changes]
    assert hero.row.is_finished
    return replace(history, changes=history.changes + tuple(ghost), runs=history.runs + tuple(tale.runs))


def a_handler_runs_what_nobody_inserted(history: History, _: random.Random) -> History:
    return replace(history, runs=(*history.runs, Run(STRANGER, 1, 0, NEVER, 1.0, 2.0)))


def an_insert_was_rolled_back_after_all(history: History, chance: random.Random) -> History | None:
    row = _pick(chance, _inserted(history))
    if row is None:
        return None
    calls = (
        replace(call, answer="failed") if (call.job, call.operation) == (row[1].job, "insert") else call
        for call in history.calls
    )
    return replace(history, calls=tuple(calls))


def an_insert_is_carried_out_twice(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _inserted(history))
    if found is None:
        return None
    place, row = found
    return _with_change(history, place, history.changes[place], Change(NEVER, None, row))


def _inserted(history: History) -> Iterator[tuple[int, Row]]:
    for place, change in enumerate(history.changes):
        is_new = place == 0 or history.changes[place - 1].transaction != change.transaction
        if change.before is None and change.after and not change.after.is_finished and is_new:
            yield place, change.after


# MUTEX ----------------------------------------------------------------------------------------------------------------


def an_attempt_is_run_twice(history: History, chance: random.Random) -> History | None:
    history = replace(history, excuses=tuple(excuse for excuse in history.excuses if excuse.host is not None))
    run = _pick(chance, list(history.runs))
    return None if run is None else replace(history, runs=(*history.runs, replace(run, host=7, pid=NEVER)))


def a_run_outlasts_the_next_claim(history: History, chance: random.Random) -> History | None:
    """Of a job that was released in good order."""
    released = {(row.job, row.attempt) for _, row, after in _updates(history, "running", "queued") if not after.crashes}
    runs = {(run.job, run.attempt): run for run in history.runs if run.ended_at is not None}
    pairs = (
        (run, runs[job, attempt + 1])
        for (job, attempt), run in runs.items()
        if (job, attempt) in released and (job, attempt + 1) in runs
    )
    if (pair := _pick(chance, pairs)) is None:
        return None
    longer = replace(pair[0], ended_at=pair[1].began_at + 0.01)
    runs_now = tuple(longer if run is pair[0] else run for run in history.runs)
    return replace(history, runs=runs_now, excuses=())


def a_release_is_missing(history: History, chance: random.Random) -> History | None:
    """So that a held job is claimed."""
    places = (
        place
        for place, _, after in _updates(history, "running", "queued")
        if (following := _next(history, place, after.job)) and following.after and following.after.status == "running"
    )
    place = _pick(chance, places)
    return None if place is None else _without(history, place)


def _next(history: History, place: int, job: UUID) -> Change | None:
    for change in history.changes[place + 1 :]:
        if job in (change.after and change.after.job, change.before and change.before.job):
            return change
    return None


# FENCE ----------------------------------------------------------------------------------------------------------------


def a_finish_is_repeated(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _finishes(history))
    return None if found is None else _append(history, (None, found[2]))


def a_finish_is_carried_out_for_a_stranger(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _held(history))
    return None if found is None else _with_after(history, found + 1, token=STRANGER)


def an_outcome_is_a_stranger_s(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _held(history))
    return None if found is None else _with_after(history, found + 1, told=STRANGER)


def _held(history: History) -> Iterator[int]:
    return (place for place, _, after in _finishes(history) if after.token)


def a_claim_is_missing(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _updates(history, "queued", "running"))
    return None if found is None else _without(history, found[0])


def a_finished_row_is_changed(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _finishes(history))
    return None if found is None else _append(history, (found[2], replace(found[2], status="failed", failures=9)))


def a_finished_row_is_deleted(history: History, chance: random.Random) -> History | None:
    last = {row.job: row for _, _, row in _finishes(history)}
    row = _pick(chance, list(last.values()))
    return None if row is None else _append(history, (row, None))


def a_job_is_cancelled_and_nobody_asked(history: History, chance: random.Random) -> History | None:
    cancelled = (row for _, _, row in _finishes(history) if row.status == "cancelled" and row.token is None)
    return _without_calls(history, "cancel", _pick(chance, cancelled))


def a_job_is_retried_and_nobody_asked(history: History, chance: random.Random) -> History | None:
    reopened = (change.before for change in history.changes if change.before and change.before.is_finished)
    return _without_calls(history, "retry", _pick(chance, reopened))


def _without_calls(history: History, operation: str, row: Row | None) -> History | None:
    if row is None:
        return None
    return replace(history, calls=tuple(call for call in history.calls if _is_other(call, operation, row.job)))


def _is_other(call: Call, operation: str, job: UUID) -> bool:
    return (call.operation, call.job) != (operation, job)


# ATT ------------------------------------------------------------------------------------------------------------------


def a_claim_raises_attempt_by_two(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _updates(history, "queued", "running"))
    return None if found is None else _with_after(history, found[0], attempt=found[2].attempt + 1)


def a_release_charges_two_failures(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _updates(history, "running", "queued"))
    return None if found is None else _with_after(history, found[0], failures=found[1].failures + 2)


def a_claim_charges_a_crash(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _updates(history, "queued", "running"))
    return None if found is None else _with_after(history, found[0], crashes=found[1].crashes + 1)


def a_finish_lowers_attempt(history: History, chance: random.Random) -> History | None:
    found = _pick(chance, _finishes(history))
    return None if found is None else _with_after(history, found[0] + 1, attempt=found[1].attempt - 1)


def an_attempt_is_run_that_nobody_claimed(history: History, chance: random.Random) -> History | None:
    run = _pick(chance, list(history.runs))
    return None if run is None else replace(history, runs=(*history.runs, replace(run, attempt=NEVER)), excuses=())


# CLEAN ----------------------------------------------------------------------------------------------------------------


def something_is_left_behind(history: History, chance: random.Random) -> History:
    left = Leftovers(sockets=1), Leftovers(processes=("7 (pushq)",)), Leftovers(complaints=("Traceback",))
    return replace(history, leftovers=chance.choice(left))


MUTATIONS: dict[Mutation, Code] = {
    the_last_finish_is_missing: "LOST",
    nothing_of_an_insert_was_committed: "LOST",
    the_runs_of_a_success_are_missing: "LOST",
    a_row_is_taken_away_unfinished: "LOST",
    somebody_who_was_not_asked_comes: "GHOST",
    a_handler_runs_what_nobody_inserted: "GHOST",
    an_insert_was_rolled_back_after_all: "GHOST",
    an_insert_is_carried_out_twice: "GHOST",
    an_attempt_is_run_twice: "MUTEX",
    a_run_outlasts_the_next_claim: "MUTEX",
    a_release_is_missing: "MUTEX",
    a_finish_is_repeated: "FENCE",
    a_finish_is_carried_out_for_a_stranger: "FENCE",
    an_outcome_is_a_stranger_s: "FENCE",
    a_claim_is_missing: "FENCE",
    a_finished_row_is_changed: "FENCE",
    a_finished_row_is_deleted: "FENCE",
    a_job_is_cancelled_and_nobody_asked: "FENCE",
    a_job_is_retried_and_nobody_asked: "FENCE",
    a_claim_raises_attempt_by_two: "ATT",
    a_release_charges_two_failures: "ATT",
    a_claim_charges_a_crash: "ATT",
    a_finish_lowers_attempt: "ATT",
    an_attempt_is_run_that_nobody_claimed: "ATT",
    something_is_left_behind: "CLEAN",
}
