"""The checker finds what is wrong, by its right name, and nothing in what is right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias
from uuid import UUID

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.torture import checker
from tests.torture.checker import check
from tests.torture.histories import Hero, Tale
from tests.torture.history import ITS_URL, Code, History, Row
from tests.torture.mutations import MUTATIONS, Mutation
from tests.torture.simulator import play

Telling: TypeAlias = Callable[[Tale], object]

STRANGER = UUID(int=77)


@dataclass(frozen=True)
class Case:
    """A bad history, and its good twin."""

    sentence: str
    bad: Telling
    good: Telling


def told(telling: Telling, tale: Tale | None = None) -> History:
    tale = tale or Tale()
    telling(tale)
    return tale.history()


# LOST -----------------------------------------------------------------------------------------------------------------

LOST = [
    Case(
        "an insert is answered ok and never committed",
        lambda tale: tale.job(commits=False),
        lambda tale: tale.job("unknown", commits=False),
    ),
    Case(
        "a job is queued for ever",
        lambda tale: tale.job(),
        lambda tale: tale.job().run().succeed(),
    ),
    Case(
        "a job whose insert was not answered is committed and queued for ever",
        lambda tale: tale.job("unknown", commits=True),
        lambda tale: tale.job("unknown", commits=True).run().succeed(),
    ),
    Case(
        "a job runs for ever",
        lambda tale: tale.job().run(),
        lambda tale: tale.job().run().fail(),
    ),
    Case(
        "a job is never tried again after a failure",
        lambda tale: tale.job().run().try_again(),
        lambda tale: tale.job().run().try_again().run().succeed(),
    ),
    Case(
        "a job is never claimed again after its process died",
        lambda tale: tale.job().claim().begin().die().crash(),
        lambda tale: tale.job().claim().begin().die().crash().run(1).succeed(),
    ),
    Case(
        "a job is retried by hand and then queued for ever",
        lambda tale: tale.job().run().succeed().retry(),
        lambda tale: tale.job().run().succeed().retry().run().succeed(),
    ),
    Case(
        "a queued job's row is gone",
        lambda tale: tale.job().vanish(),
        lambda tale: tale.job().cancel(),
    ),
    Case(
        "a running job's row is gone",
        lambda tale: tale.job().run().vanish(),
        lambda tale: tale.job().run().give_up(),
    ),
    Case(
        "a job succeeds and no handler ran",
        lambda tale: tale.job().claim().succeed(),
        lambda tale: tale.job().claim().begin().end().succeed(),
    ),
    Case(
        "a job succeeds and its handler never ended",
        lambda tale: tale.job().claim().begin().succeed(),
        lambda tale: tale.job().claim().begin().end().succeed(),
    ),
    Case(
        "a job succeeds and its handler raised",
        lambda tale: tale.job().claim().begin().end(returned=False).succeed(),
        lambda tale: tale.job().claim().begin().end(returned=True).succeed(),
    ),
    Case(
        "a job succeeds at its second attempt, and only the first ran",
        lambda tale: tale.job().run().try_again().claim().succeed(),
        lambda tale: tale.job().run().try_again().run().succeed(),
    ),
    Case(
        "a job succeeds, and all that ended is a run of a claim that the server forgot",
        lambda tale: tale.job().begin(0, attempt=1).end().crash_server().claim(1).begin().succeed(),
        lambda tale: tale.job().begin(0, attempt=1).end().crash_server().claim(1).begin().end().succeed(),
    ),
    Case(
        "a failure is charged for an attempt that never ended",
        lambda tale: tale.job().claim().begin().die().try_again().run().succeed(),
        lambda tale: tale.job().claim().begin().die().crash().run().succeed(),
    ),
    Case(
        "a handler that never ran cancels its job",
        lambda tale: tale.job().claim().give_up(),
        lambda tale: tale.job().claim().cancel(),
    ),
    Case(
        "a client is told that its job was cancelled, and it was not",
        lambda tale: tale.job().ask("cancel", did="cancelled").run().succeed(),
        lambda tale: tale.job().run().succeed().ask("cancel", did="already succeeded"),
    ),
    Case(
        "a client is told that its job is queued again, and it is not",
        lambda tale: tale.job().run().fail().ask("retry", did="queued"),
        lambda tale: tale.job().run().fail().ask("retry", did="queued").reset().run().succeed(),
    ),
    Case(
        "a client is told that its job is being cancelled, and it is not",
        lambda tale: tale.job().claim().begin().ask("cancel", did="cancelling").end().succeed(),
        lambda tale: tale.job().claim().begin().mark_cancelling().end().succeed(),
    ),
    Case(
        "a guest is told that its outcome counted, and it is not there",
        lambda tale: tale.job().claim().begin(kept_until=0).end().answer("succeeded").crash().run(1).succeed(),
        lambda tale: tale.job().claim().begin(kept_until=0).end().answer("succeeded").succeed(),
    ),
    Case(
        "another outcome than a guest's is there",
        lambda tale: tale.job().claim().begin(kept_until=0).end().answer("cancelled").succeed(),
        lambda tale: tale.job().claim().begin(kept_until=0).end().answer("cancelled").give_up(),
    ),
]

# GHOST ----------------------------------------------------------------------------------------------------------------

GHOST = [
    Case(
        "an insert that was rolled back is committed, run and finished",
        lambda tale: tale.job("failed", commits=True).run().succeed(),
        lambda tale: tale.job("unknown", commits=True).run().succeed(),
    ),
    Case(
        "an insert that was rolled back is still queued at the end",
        lambda tale: tale.job("failed", commits=True),
        lambda tale: tale.job("failed"),
    ),
    Case(
        "a handler runs a job whose insert was rolled back",
        lambda tale: tale.job("failed").begin(attempt=1).end(),
        lambda tale: tale.job("failed"),
    ),
    Case(
        "the database commits a job that nobody inserted",
        lambda tale: tale.nobody().appear().run().succeed(),
        lambda tale: tale.nobody().insert().run().succeed(),
    ),
    Case(
        "a finished job is there that nobody inserted",
        lambda tale: tale.nobody().appear(status="succeeded", is_finished=True),
        lambda tale: tale.nobody(),
    ),
    Case(
        "a handler runs a job that nobody inserted",
        lambda tale: tale.nobody().begin(attempt=1).end(),
        lambda tale: tale.nobody(),
    ),
    Case(
        "an insert whose answer was lost is carried out twice",
        lambda tale: tale.job("unknown").cancel().appear(status="queued", is_finished=False).run().succeed(),
        lambda tale: tale.job("unknown").cancel().retry().run().succeed(),
    ),
    Case(
        "an insert that was answered is carried out twice, and both rows are finished",
        lambda tale: (
            tale.job().run().succeed().appear(status="queued", attempt=0, token=None, is_finished=False).cancel()
        ),
        lambda tale: tale.job().run().succeed(),
    ),
    Case(
        "a handler runs a job that was never committed",
        lambda tale: tale.job("unknown", commits=False).begin(attempt=1).end(),
        lambda tale: tale.job("unknown", commits=True).claim().begin().end().succeed(),
    ),
    Case(
        "a job is run before somebody inserts it",
        lambda tale: tale.nobody().appear().run().succeed().ask("insert"),
        lambda tale: tale.nobody().ask("insert").appear().run().succeed(),
    ),
]

# MUTEX ----------------------------------------------------------------------------------------------------------------

MUTEX = [
    Case(
        "a job is released while it runs, and runs elsewhere",
        lambda tale: tale.job().claim(0).begin().release().claim(1).begin().end(0).end().succeed(),
        lambda tale: tale.job().claim(0).begin().end().release().claim(1).begin().end().succeed(),
    ),
    Case(
        "a long run is requeued by its age",
        lambda tale: tale.job().claim(0).begin().pass_time(9).crash().claim(1).begin().end().succeed().end(0),
        lambda tale: tale.job().claim(0).begin().pass_time(9).end().crash().claim(1).begin().end().succeed(),
    ),
    Case(
        "a job is taken from a supervisor that lives, since only its pool stood still",
        lambda tale: (
            tale.job().claim(0).begin().freeze(0, may_cost_jobs=False).crash().claim(1).begin().end().succeed().end(0)
        ),
        lambda tale: tale.job().claim(0).begin().freeze(0).crash().claim(1).begin().end().succeed().end(0),
    ),
    Case(
        "a job is taken from a host that was frozen for a moment only",
        lambda tale: tale.job().claim(0).begin().freeze(0, 0.5).crash().claim(1).begin().end().succeed().end(0),
        lambda tale: tale.job().claim(0).begin().freeze(0, 2.1).crash().claim(1).begin().end().succeed().end(0),
    ),
    Case(
        "a job is taken from a host when another was frozen",
        lambda tale: tale.job().claim(0).begin().freeze(1).crash().claim(2).begin().end().succeed().end(0),
        lambda tale: tale.job().claim(0).begin().freeze(0).crash().claim(2).begin().end().succeed().end(0),
    ),
    Case(
        "a job is taken from a host that is frozen only afterwards",
        lambda tale: tale.job().claim(0).begin().crash().claim(1).begin().freeze(0).end().succeed().end(0),
        lambda tale: tale.job().claim(0).begin().freeze(0).crash().claim(1).begin().end().succeed().end(0),
    ),
    Case(
        "a job is taken from a host that was frozen long before it began",
        lambda tale: tale.freeze(0).job().pass_time(9).claim(0).begin().crash().claim(1).begin().end().succeed().end(0),
        lambda tale: tale.job().claim(0).freeze(0).begin().crash().claim(1).begin().end().succeed().end(0),
    ),
    Case(
        "a job is taken from a host because the server was frozen",
        lambda tale: tale.job().claim(0).begin().freeze(None).crash().claim(1).begin().end().succeed().end(0),
        lambda tale: tale.job().claim(0).begin().freeze(None).end().succeed(),
    ),
    Case(
        "the claim was known, so that a crash of the server is no excuse",
        lambda tale: tale.job().claim(0).begin().crash_server().crash().claim(1).begin().end().succeed().end(0),
        lambda tale: tale.job().begin(0, attempt=1).crash_server().claim(1).begin().end().succeed().end(0),
    ),
    Case(
        "two pauses with a heartbeat between them are not one that is long enough",
        lambda tale: (
            tale.job()
            .claim(0)
            .begin()
            .freeze(0, 0.7)
            .pass_time(1)
            .freeze(0, 0.7)
            .crash()
            .claim(1)
            .begin()
            .end()
            .succeed()
            .end(0)
        ),
        lambda tale: (
            tale.job()
            .claim(0)
            .begin()
            .freeze(0, 0.7)
            .pass_time(0.2)
            .freeze(0, 0.7)
            .crash()
            .claim(1)
            .begin()
            .end()
            .succeed()
            .end(0)
        ),
    ),
    Case(
        "one claim is run twice",
        lambda tale: tale.job().claim().begin().end().begin().end().succeed(),
        lambda tale: tale.job().claim().begin().end().succeed(),
    ),
    Case(
        "one attempt is run twice, long after the server crashed",
        lambda tale: (
            hero := tale.crash_server().pass_time(9).job().begin(0, attempt=1, tells=False).end(),
            hero.claim(1).begin(tells=False).end().succeed(),
        ),
        lambda tale: (
            hero := tale.pass_time(9).job().begin(0, attempt=1, tells=False).end().crash_server(),
            hero.claim(1).begin(tells=False).end().succeed(),
        ),
    ),
    Case(
        "a process is killed after the job it ran has begun elsewhere",
        lambda tale: tale.job().claim(0).begin().crash().claim(1).begin().die(0).end().succeed(),
        lambda tale: tale.job().claim(0).begin().die().crash().claim(1).begin().end().succeed(),
    ),
    Case(
        "a run that never ended is heard to be alive when the next has begun",
        lambda tale: (
            tale.job().claim(0).begin(pid=5).crash().claim(1).begin().end().succeed(),
            tale.job().claim(0).begin(pid=5).end().succeed(),
        ),
        lambda tale: (
            tale.job().claim(0).begin(pid=5).crash().claim(1).begin().end().succeed(),
            tale.job().claim(0).begin(pid=6).end().succeed(),
        ),
    ),
    Case(
        "a crash is charged to a process that is heard of when the job runs elsewhere",
        lambda tale: (
            hero := tale.job().claim(0).begin(pid=5).end().crash().claim(1).begin(),
            tale.job().claim(0).begin(pid=5).end().succeed(),
            hero.end().succeed(),
        ),
        lambda tale: (
            hero := tale.job().claim(0).begin(pid=5).end().freeze(0).crash().claim(1).begin(),
            tale.job().claim(0).begin(pid=5).end().succeed(),
            hero.end().succeed(),
        ),
    ),
    Case(
        "a supervisor whose row is gone claims on",
        lambda tale: (tale.declare_dead(0), tale.job().run(0).succeed()),
        lambda tale: (
            tale.declare_dead(0),
            tale.revive(0),
            tale.job().run(0).succeed(),
            tale.declare_dead(0),
            tale.job().run(1).fail(),
        ),
    ),
    Case(
        "a job is claimed that is held",
        lambda tale: tale.job().claim(0).claim(1).begin().end().succeed(),
        lambda tale: tale.job().claim(0).release().claim(1).begin().end().succeed(),
    ),
    Case(
        "a handler runs on after its job was requeued, as if it had been cancelled",
        lambda tale: tale.job().claim(0).begin().release().retry().claim(1).begin().end().succeed().end(0),
        lambda tale: tale.job().claim(0).begin().cancel().retry().claim(1).begin().end().succeed().end(0),
    ),
    Case(
        "a job that has killed two processes runs beside another",
        lambda tale: (
            killer := tale.job().claim().begin().die().crash().claim().begin().die().crash(),
            killer.claim().begin(pid=5),
            tale.job().claim().begin(pid=5).end().succeed(),
            killer.end().succeed(),
        ),
        lambda tale: (
            killer := tale.job().claim().begin().die().crash().claim().begin().die().crash(),
            killer.claim().begin(pid=5),
            tale.job().claim().begin(pid=6).end().succeed(),
            killer.end().succeed(),
        ),
    ),
    Case(
        "a job is taken from a guest while its lease lasts",
        lambda tale: tale.job().claim().begin(kept_until=9.0).die().crash().run(1).succeed(),
        lambda tale: tale.job().claim().begin(kept_until=9.0).die().pass_time(9).crash().run(1).succeed(),
    ),
    Case(
        "a job is run beside a guest while its lease lasts",
        lambda tale: tale.job().claim().begin(kept_until=9.0).crash().claim(1).begin().end(0).end().succeed(),
        lambda tale: tale.job().claim().begin(kept_until=0.0).crash().claim(1).begin().end(0).end().succeed(),
    ),
    Case(
        "a job is put beside one that has killed two processes",
        lambda tale: (
            killer := tale.job().claim().begin().die().crash().claim().begin().die().crash(),
            other := tale.job().claim().begin(pid=5),
            killer.claim().begin(pid=5).die().crash(),
            other.end().succeed(),
        ),
        lambda tale: (
            killer := tale.job().claim().begin().die().crash().claim().begin().die().crash(),
            tale.job().claim().begin(pid=5).end().succeed(),
            killer.claim().begin(pid=5).die().crash(),
        ),
    ),
]

# FENCE ----------------------------------------------------------------------------------------------------------------

FENCE = [
    Case(
        "a claim is finished twice",
        lambda tale: tale.job().run().succeed().appear(),
        lambda tale: tale.job().run().succeed(),
    ),
    Case(
        "a finished row appears beside the one that was cancelled",
        lambda tale: tale.job().run().cancel().appear(status="succeeded", token=STRANGER),
        lambda tale: tale.job().run().cancel(),
    ),
    Case(
        "a finish under the token of an earlier claim",
        lambda tale: (hero := tale.job().run(), old := hero.row.token, hero.release().run().succeed(token=old)),
        lambda tale: tale.job().run().release().run().succeed(),
    ),
    Case(
        "a finish under a token that nobody ever claimed",
        lambda tale: tale.job().run().succeed(token=STRANGER),
        lambda tale: tale.job().run().succeed(),
    ),
    Case(
        "a finish that found another claim's token in the row",
        lambda tale: (
            hero := tale.job().run(0),
            old := hero.row,
            hero.release().run(1).succeed(found=replace(hero.row, token=old.token)),
        ),
        lambda tale: tale.job().run(0).release().run(1).succeed(),
    ),
    Case(
        "a release that found another claim's token in the row",
        lambda tale: (
            hero := tale.job().run(0),
            old := hero.row.token,
            hero.release().run(1).release(found=replace(hero.row, token=old)).run(2).succeed(),
        ),
        lambda tale: tale.job().run(0).release().run(1).release().run(2).succeed(),
    ),
    Case(
        "a late success of a job that was queued again",
        lambda tale: tale.job().run().crash().succeed(),
        lambda tale: tale.job().run().crash().run().succeed(),
    ),
    Case(
        "a late failure of a job that was queued again",
        lambda tale: tale.job().run().crash().move(status="failed"),
        lambda tale: tale.job().run().crash().run().fail(),
    ),
    Case(
        "a running job succeeds and nobody's token is left",
        lambda tale: tale.job().run().succeed(token=None),
        lambda tale: tale.job().run().succeed(),
    ),
    Case(
        "a running job ends as failed by nobody, and no crash is charged",
        lambda tale: tale.job().run().move(status="failed", token=None),
        lambda tale: tale.job().run().cancel(),
    ),
    Case(
        "a job is cancelled and nobody asked for it",
        lambda tale: tale.job().move(status="cancelled"),
        lambda tale: tale.job().ask("cancel", "unknown").move(status="cancelled"),
    ),
    Case(
        "a job is cancelled although the cancel was rolled back",
        lambda tale: tale.job().cancel("failed"),
        lambda tale: tale.job().cancel("ok"),
    ),
    Case(
        "a job is cancelled twice for one who asked once",
        lambda tale: tale.job().cancel().retry().move(status="cancelled"),
        lambda tale: tale.job().cancel().retry().cancel(),
    ),
    Case(
        "a finished row is updated in its day",
        lambda tale: tale.job().run().fail().update(status="succeeded"),
        lambda tale: tale.job().run().fail(),
    ),
    Case(
        "a finished row is deleted from its day",
        lambda tale: tale.job().run().succeed().vanish(),
        lambda tale: tale.job().run().succeed(),
    ),
    Case(
        "a finished job is queued again and nobody asked for it",
        lambda tale: tale.job().run().succeed().reset().run().succeed(),
        lambda tale: tale.job().run().succeed().retry().run().succeed(),
    ),
    Case(
        "a finished job is queued again twice for one who asked once",
        lambda tale: tale.job().run().fail().retry().run().fail().reset().run().succeed(),
        lambda tale: tale.job().run().fail().retry("unknown").run().fail().retry().run().succeed(),
    ),
    Case(
        "what is taken out of a day is not what was put there",
        lambda tale: (
            hero := tale.job().run().fail().ask("retry"),
            hero.move(found=replace(hero.row, status="succeeded"), status="queued", failures=0, token=None).cancel(),
        ),
        lambda tale: tale.job().run().fail().retry().cancel(),
    ),
    Case(
        "a result that an earlier claim wrote",
        lambda tale: (
            hero := tale.job().claim(0).begin(),
            old := hero.row.token,
            hero.freeze(0).crash().run(1).succeed(told=old).end(0),
        ),
        lambda tale: (
            hero := tale.job().claim(0).begin().freeze(0).crash().run(1),
            hero.succeed(told=hero.row.token).end(0),
        ),
    ),
    Case(
        "a failure that an earlier claim wrote is charged to this one",
        lambda tale: (
            hero := tale.job().run(),
            old := hero.row.token,
            hero.release().run().try_again(told=old).run().succeed(),
        ),
        lambda tale: (
            hero := tale.job().run(),
            hero.try_again(told=hero.row.token).run().release().run().succeed(),
        ),
    ),
    Case(
        "an outcome of a guest was refused, and is there",
        lambda tale: tale.job().claim().begin(kept_until=0).end().answer("succeeded", has_counted=False).succeed(),
        lambda tale: tale.job().claim().begin(kept_until=0).end().answer("succeeded", has_counted=None).succeed(),
    ),
    Case(
        "a job that is being cancelled is queued again",
        lambda tale: tale.job().claim().begin().mark_cancelling().die().crash().run().succeed(),
        lambda tale: tale.job().claim().begin().mark_cancelling().die().give_up(),
    ),
    Case(
        "a job that is being cancelled fails and is queued again, and ends later",
        lambda tale: tale.job().claim().begin().mark_cancelling().end().try_again().cancel(),
        lambda tale: tale.job().claim().begin().mark_cancelling().end().go_on_no_more(),
    ),
    Case(
        "two claims of a job under one token",
        lambda tale: (
            hero := tale.job().run(),
            old := hero.row.token,
            hero.release().claim(token=old).release().cancel(),
        ),
        lambda tale: tale.job().run().release().claim().release().cancel(),
    ),
    Case(
        "claims of two jobs at two times under one token",
        lambda tale: (
            hero := tale.job().run(),
            tale.job().claim(token=hero.row.token).begin().end().succeed(),
            hero.succeed(),
        ),
        lambda tale: (
            hero := tale.job().run(),
            tale.job().claim().begin().end().succeed(),
            hero.succeed(),
        ),
    ),
]

# ATT ------------------------------------------------------------------------------------------------------------------

ATT = [
    Case(
        "a claim leaves attempt as it was",
        lambda tale: tale.job().claim().release().claim(attempt=1).release().cancel(),
        lambda tale: tale.job().claim().release().claim(attempt=2).release().cancel(),
    ),
    Case(
        "a claim raises attempt by two",
        lambda tale: tale.job().claim(attempt=2).begin().end().succeed(),
        lambda tale: tale.job().claim(attempt=1).begin().end().succeed(),
    ),
    Case(
        "a finish changes attempt",
        lambda tale: tale.job().run().succeed(attempt=0),
        lambda tale: tale.job().run().succeed(attempt=1),
    ),
    Case(
        "a release takes an attempt back",
        lambda tale: tale.job().run().release(attempt=0).cancel(),
        lambda tale: tale.job().run().release(attempt=1).cancel(),
    ),
    Case(
        "a retry by hand begins to count attempts anew",
        lambda tale: tale.job().claim().release().run().fail().retry(attempt=0).cancel(),
        lambda tale: tale.job().claim().release().run().fail().retry(attempt=2).cancel(),
    ),
    Case(
        "a job is inserted as if it had been tried",
        lambda tale: tale.job(attempt=1).cancel(),
        lambda tale: tale.job(attempt=0).cancel(),
    ),
    Case(
        "one run is charged with two failures",
        lambda tale: tale.job(max_attempts=9).run().try_again(failures=2).run().succeed(),
        lambda tale: tale.job(max_attempts=9).run().try_again(failures=1).run().succeed(),
    ),
    Case(
        "a job fails more often than its row allows",
        lambda tale: tale.job(max_attempts=1).run().try_again().run().fail(),
        lambda tale: tale.job(max_attempts=2).run().try_again().run().fail(),
    ),
    Case(
        "a job fails as often as another task allows, and its own does not",
        lambda tale: tale.job(task="picky").run().try_again().run().try_again().run().fail(),
        lambda tale: tale.job(task="picky").run().try_again().run().fail(),
    ),
    Case(
        "a job is charged a failure, and its handler returned",
        lambda tale: tale.job().claim().begin().end(returned=True).try_again().run().succeed(),
        lambda tale: tale.job().claim().begin().end(returned=False).try_again().run().succeed(),
    ),
    Case(
        "a job fails for good the first time that its handler raises",
        lambda tale: tale.job().claim().begin().end(returned=False).fail(),
        lambda tale: tale.job(max_attempts=1).claim().begin().end(returned=False).fail(),
    ),
    Case(
        "a job fails more often than its task allows",
        lambda tale: tale.job().run().try_again().run().try_again().run().try_again().run().fail(),
        lambda tale: tale.job().run().try_again().run().try_again().run().fail(),
    ),
    Case(
        "a job goes on after its last failure, and succeeds",
        lambda tale: tale.job(max_attempts=2).run().try_again().run().try_again().run().succeed(),
        lambda tale: tale.job(max_attempts=2).run().try_again().run().succeed(),
    ),
    Case(
        "a claim forgives a failure",
        lambda tale: tale.job().run().try_again().claim(failures=0).begin().end().succeed(),
        lambda tale: tale.job().run().try_again().claim(failures=1).begin().end().succeed(),
    ),
    Case(
        "failures are forgiven and nobody asked for it",
        lambda tale: tale.job().run().try_again().reset().run().succeed(),
        lambda tale: tale.job().run().try_again().retry().run().succeed(),
    ),
    Case(
        "a retry by hand forgives failures and not crashes",
        lambda tale: tale.job().run().try_again().run().crash().retry(crashes=1).run().succeed(),
        lambda tale: tale.job().run().try_again().run().crash().retry(crashes=0).run().succeed(),
    ),
    Case(
        "a retry by hand of a finished job keeps its failures",
        lambda tale: tale.job().run().fail().retry(failures=1).run().succeed(),
        lambda tale: tale.job().run().fail().retry(failures=0).run().succeed(),
    ),
    Case(
        "one run is charged with a failure and a crash",
        lambda tale: tale.job().run().crash(failures=1).run().succeed(),
        lambda tale: tale.job().run().crash(failures=0).run().succeed(),
    ),
    Case(
        "a success is charged with a failure",
        lambda tale: tale.job().run().succeed(failures=1),
        lambda tale: tale.job().run().succeed(failures=0),
    ),
    Case(
        "a job fails for good and no failure is charged",
        lambda tale: tale.job().run().fail(failures=0),
        lambda tale: tale.job().run().fail(failures=1),
    ),
    Case(
        "one death is charged with two crashes",
        lambda tale: tale.job().run().crash(crashes=2).run().succeed(),
        lambda tale: tale.job().run().crash(crashes=1).run().succeed(),
    ),
    Case(
        "a claim is charged with a crash",
        lambda tale: tale.job().claim(crashes=1).begin().end().succeed(),
        lambda tale: tale.job().claim(crashes=0).begin().end().succeed(),
    ),
    Case(
        "a job goes on after its third crash",
        lambda tale: tale.job().run().crash().run().crash().run().release(crashes=3).run().succeed(),
        lambda tale: tale.job().run().crash().run().crash().run().crash(),
    ),
    Case(
        "a crash ends a job that was allowed more",
        lambda tale: tale.job().run().move(status="failed", crashes=1, token=None),
        lambda tale: tale.job().run().crash().run().crash().run().move(status="failed", crashes=3, token=None),
    ),
    Case(
        "a job is taken from a guest that said nothing, at no charge",
        lambda tale: tale.job().claim().begin(kept_until=0).die().release().run(1).succeed(),
        lambda tale: tale.job().claim().begin(kept_until=0).die().crash().run(1).succeed(),
    ),
    Case(
        "a job is inserted as running",
        lambda tale: tale.job(status="running").cancel(),
        lambda tale: tale.job(status="queued").cancel(),
    ),
    Case(
        "a retry by hand makes a finished job run at once",
        lambda tale: tale.job().run().fail().retry(status="running").cancel(),
        lambda tale: tale.job().run().fail().retry(status="queued").cancel(),
    ),
    Case(
        "a queued job stands in a day",
        lambda tale: tale.job().run().succeed(status="queued"),
        lambda tale: tale.job().run().succeed(status="succeeded"),
    ),
    Case(
        "a running job is written to, and runs on under the same token",
        lambda tale: tale.job().run().update().succeed(),
        lambda tale: tale.job().touch().run().succeed(),
    ),
    Case(
        "a failure comes from nowhere between two changes",
        lambda tale: (
            hero := tale.job(),
            hero.claim(found=replace(hero.row, failures=1), failures=1).begin().end().succeed(failures=1),
        ),
        lambda tale: (hero := tale.job(), hero.claim(found=hero.row).begin().end().succeed()),
    ),
    Case(
        "an attempt is run that was never claimed",
        lambda tale: tale.job().begin(attempt=1).end().cancel(),
        lambda tale: tale.job().begin(attempt=1).end().crash_server().cancel(),
    ),
    Case(
        "an attempt is run that was never claimed, and the server crashes only much later",
        lambda tale: tale.job().begin(attempt=1).end().cancel().pass_time(2).crash_server(),
        lambda tale: tale.job().begin(attempt=1).end().cancel().crash_server(),
    ),
]

# TOLD -----------------------------------------------------------------------------------------------------------------


def with_a_slow_call(tale: Tale, seconds: float) -> Tale:
    return tale.job().run().succeed().ask("cancel", "failed", seconds=seconds).tale


TOLD = [
    Case(
        "a wait never ends",
        lambda tale: tale.job().run().succeed().wait(ended_at=None, heard=None, found=None),
        lambda tale: tale.job().run().succeed().wait(),
    ),
    Case(
        "a wait is told of another end",
        lambda tale: tale.job().run().succeed().wait(heard="failed"),
        lambda tale: tale.job().run().fail().wait(heard="failed"),
    ),
    Case(
        "a wait for a job that never was is not refused",
        lambda tale: tale.nobody().wait(heard=None, found="queued"),
        lambda tale: tale.nobody().wait(heard=None, found=None),
    ),
    Case(
        "a wait is told before the end",
        lambda tale: tale.job().claim().begin().wait(heard="succeeded").end().succeed(),
        lambda tale: tale.job().claim().begin().end().succeed().wait(heard="succeeded"),
    ),
    Case(
        "a wait is told that a job is cancelled while its handler goes on",
        lambda tale: (
            hero := tale.calm_down().job().claim().begin().mark_cancelling(),
            hero.wait(heard="cancelled", found="cancelled").pass_time(0.5).end().give_up(),
        ),
        lambda tale: (
            hero := tale.calm_down().job().claim().begin().mark_cancelling(),
            hero.pass_time(0.5).end().give_up().wait(),
        ),
    ),
    Case(
        "nobody tells of a cancel that ends the job at once",
        lambda tale: tale.job().cancel().wait(heard=None),
        lambda tale: tale.job().cancel().wait(heard=None, could_hear=False),
    ),
    Case(
        "nobody tells of a guest's outcome",
        lambda tale: tale.job().claim().begin(kept_until=0).end().answer("succeeded").succeed().wait(heard=None),
        lambda tale: tale.job().claim().begin().end().succeed().wait(heard=None),
    ),
    Case(
        "a pool tells nobody, in calm",
        lambda tale: tale.calm_down().job().run().succeed().wait(heard=None),
        lambda tale: tale.job().run().succeed().wait(heard=None).pass_time(1).tale.calm_down(),
    ),
    Case(
        "a wait ends long after the job, in calm",
        lambda tale: tale.calm_down().job().run().succeed().wait(ended_at=9.0),
        lambda tale: tale.job().run().succeed().wait(ended_at=9.0).pass_time(1).tale.calm_down(),
    ),
    Case(
        "a wait ends long after the job, in calm, on a machine that is slow, but not so slow",
        lambda tale: with_a_slow_call(tale.calm_down(), 4.0).job().run().succeed().wait(ended_at=12.0),
        lambda tale: with_a_slow_call(tale.calm_down(), 9.0).job().run().succeed().wait(ended_at=12.0),
    ),
    Case(
        "a handler goes on after its job was cancelled, in calm",
        lambda tale: tale.calm_down().job().claim().begin().cancel(did="cancelled").pass_time(5).end(),
        lambda tale: tale.calm_down().job().claim().begin().cancel(did="cancelled").pass_time(1).end(),
    ),
]

# EVENT ----------------------------------------------------------------------------------------------------------------

EVENT = [
    Case(
        "an end has no event",
        lambda tale: claimed(tale).succeed(),
        lambda tale: claimed(tale).succeed().note("succeeded", "running", "succeeded"),
    ),
    Case(
        "an end has two events",
        lambda tale: claimed(tale).fail().note("failed", "running", "failed").note("failed", "running", "failed"),
        lambda tale: claimed(tale).fail().note("failed", "running", "failed"),
    ),
    Case(
        "an event is written in another transaction",
        lambda tale: claimed(tale).fail().note("failed", "running", "failed", transaction=1),
        lambda tale: claimed(tale).give_up().note("cancelled", "running", "cancelled"),
    ),
    Case(
        "a crash is noted as a release",
        lambda tale: cancelled(claimed(tale).crash().note("released", "running", "queued")),
        lambda tale: cancelled(claimed(tale).crash().note("requeued", "running", "queued")),
    ),
    Case(
        "what failed and goes on has no event, in a queue without all events",
        lambda tale: tale.keep_events().job().run().try_again().run().succeed(),
        lambda tale: tale.keep_events().job().run().try_again().note("retried", "running", "queued").run().succeed(),
    ),
    Case(
        "a cancel that goes on has no event",
        lambda tale: claimed(tale).mark_cancelling().give_up().note("cancelled", "running", "cancelled"),
        lambda tale: (
            hero := claimed(tale).mark_cancelling().note("cancelling", "running", "running"),
            hero.give_up().note("cancelled", "running", "cancelled"),
        ),
    ),
    Case(
        "an insert has no event, where inserts are told",
        lambda tale: cancelled(tale.keep_events().job(queue="noted")),
        lambda tale: cancelled(tale.keep_events().job(queue="noted").note("inserted", "", "queued")),
    ),
    Case(
        "an event does not begin where the one before ended",
        lambda tale: cancelled(tale.keep_events().job(queue="history").touch().note("edited", "running", "running")),
        lambda tale: cancelled(tale.keep_events().job(queue="history").touch().note("edited", "queued", "queued")),
    ),
]


def claimed(tale: Tale) -> Hero:
    """Run by a pool, in a queue with all events."""
    hero = tale.keep_events().job(queue="history").claim().note("claimed", "queued", "running")
    return hero.begin().end()


def cancelled(hero: Hero) -> Hero:
    return hero.cancel().note("cancelled", "queued", "cancelled")


# FILE -----------------------------------------------------------------------------------------------------------------


def writing(tale: Tale) -> Hero:
    return tale.job().claim().begin()


FILE = [
    Case(
        "an artifact is there, and its job is not",
        lambda tale: tale.nobody().keep_file(),
        lambda tale: writing(tale).leave_file().end().succeed(),
    ),
    Case(
        "an artifact has other pieces than its row says",
        lambda tale: writing(tale).leave_file(pieces="0 d").end().succeed(),
        lambda tale: writing(tale).leave_file().end().succeed(),
    ),
    Case(
        "an artifact is not what its handler has written",
        lambda tale: writing(tale).leave_file(row="0 d", pieces="0 d").end().fail(),
        lambda tale: writing(tale).leave_file().end().fail(),
    ),
    Case(
        "an artifact is lost",
        lambda tale: writing(tale).leave_file().leave_file("b").lose_file("b").end().succeed(),
        lambda tale: writing(tale).leave_file().leave_file("b").end().succeed(),
    ),
    Case(
        "a job that succeeded has an artifact of an attempt that failed",
        lambda tale: writing(tale).leave_file("b").end().try_again().run().leave_file().succeed(),
        lambda tale: writing(tale).leave_file().end().try_again().run().leave_file().succeed(),
    ),
    Case(
        "an attempt that has lost its job completes an artifact",
        lambda tale: writing(tale).end().release().claim(1).begin().leave_file(which=0).leave_file().end().fail(),
        lambda tale: writing(tale).leave_file().end().release().claim(1).begin().leave_file().end().fail(),
    ),
]

# HOOK -----------------------------------------------------------------------------------------------------------------


def told_of(tale: Tale) -> Hero:
    """A job in the queue whose webhook is told everything, up to its run."""
    hero = tale.job(queue="told").tell("queued").arrive()
    return hero.claim().tell("running").arrive().begin().end()


def with_url(tale: Tale) -> Hero:
    return tale.job(has_url=True).run().succeed()


HOOK = [
    Case(
        "a webhook is not told an end",
        lambda tale: told_of(tale).succeed(),
        lambda tale: told_of(tale).succeed().tell("succeeded").arrive(),
    ),
    Case(
        "a webhook is not told that a job goes on",
        lambda tale: told_of(tale).try_again().cancel().tell("cancelled").arrive(),
        lambda tale: told_of(tale).try_again().tell("queued").arrive().cancel().tell("cancelled").arrive(),
    ),
    Case(
        "a webhook is told an end twice",
        lambda tale: told_of(tale).fail().tell("failed").arrive().tell("failed").arrive(),
        lambda tale: told_of(tale).fail().tell("failed").arrive().arrive(),
    ),
    Case(
        "a delivery is written in another transaction",
        lambda tale: told_of(tale).fail().tell("failed", transaction=1).arrive(),
        lambda tale: told_of(tale).fail().tell("failed").arrive(),
    ),
    Case(
        "what was rolled back is told",
        lambda tale: (tale.job().cancel(), tale.job("failed").tell("queued").arrive()),
        lambda tale: (tale.job().cancel(), tale.job("failed")),
    ),
    Case(
        "a job's own URL is not told its end",
        with_url,
        lambda tale: with_url(tale).tell("succeeded", ITS_URL).arrive(),
    ),
    Case(
        "a delivery waits for ever",
        lambda tale: with_url(tale).tell("succeeded", ITS_URL, status="queued"),
        lambda tale: with_url(tale).tell("succeeded", ITS_URL, status="failed", crashes=3),
    ),
    Case(
        "a delivery to a webhook that is gone waits for ever",
        lambda tale: tale.job().run().succeed().tell("succeeded", "gone", status="queued"),
        lambda tale: tale.job().run().succeed().tell("succeeded", "gone", status="failed"),
    ),
    Case(
        "a delivery succeeds that was not accepted",
        lambda tale: with_url(tale).tell("succeeded", ITS_URL).arrive(status=500),
        lambda tale: with_url(tale).tell("succeeded", ITS_URL).arrive(status=500).arrive(),
    ),
    Case(
        "an end arrives before the claim was accepted",
        lambda tale: told_of(tale).fail().tell("failed").arrive(at=0.2),
        lambda tale: told_of(tale).fail().tell("failed").arrive(),
    ),
    Case(
        "a delivery arrives under another id",
        lambda tale: with_url(tale).tell("succeeded", ITS_URL).arrive().arrive(delivery=STRANGER),
        lambda tale: with_url(tale).tell("succeeded", ITS_URL).arrive().crash_server().arrive(delivery=STRANGER),
    ),
    Case(
        "a delivery says something else than was written",
        lambda tale: with_url(tale).tell("succeeded", ITS_URL).arrive(tells="failed"),
        lambda tale: with_url(tale).tell("succeeded", ITS_URL).arrive(),
    ),
    Case(
        "a receiver answers 410, and its webhook goes on",
        lambda tale: tale.job().run().fail().tell("failed", "gone", status="failed").arrive(path="/gone", status=410),
        lambda tale: (
            hero := tale.pause().job().run().fail(),
            hero.tell("failed", "gone", status="failed").arrive(path="/gone", status=410),
        ),
    ),
]

# CLEAN ----------------------------------------------------------------------------------------------------------------


def two_of(needs: str, tale: Tale, *, in_turn: bool) -> None:
    one, other = tale.job(needs=needs), tale.job(needs=needs)
    if in_turn:
        one.run().succeed()
        other.run().succeed()
    else:
        one.claim(0)
        other.claim(1)
        one.begin().end().succeed()
        other.begin().end().succeed()


def lowered(tale: Tale, *, grows: bool) -> None:
    """Of three units three are held when there is to be but one."""
    tale.rule("desk", capacity=3)
    jobs = [tale.job(needs='{"desk": 1}').claim() for _ in range(3)]
    tale.rule("desk", capacity=1)
    jobs[0].begin().end().succeed()
    if not grows:
        jobs[1].begin().end().succeed()
        jobs[2].begin().end().succeed()
    tale.job(needs='{"desk": 1}').run().succeed()
    for job in jobs[1:] if grows else ():
        job.begin().end().succeed()


def followed(tale: Tale, needs: str) -> None:
    """In the place of one that ends, of two that hold more than there is by now, another begins in one transaction."""
    tale.rule("desk", capacity=2)
    tale.rule("lamp", capacity=1)
    lit = tale.job(needs='{"lamp": 1}').claim()
    one, other, following = (tale.job(needs='{"desk": 1}'), tale.job(needs='{"desk": 1}'), tale.job(needs=needs))
    one.claim().begin().end()
    other.claim()
    tale.rule("desk", capacity=1)
    one.succeed()
    end = len(tale.changes)
    following.claim()
    tale.changes[end:] = [
        replace(change, transaction=tale.changes[end - 1].transaction) for change in tale.changes[end:]
    ]
    for job in (lit, other, following):
        job.begin().end().succeed()


def loosened(tale: Tale, *, settles: bool) -> None:
    """A claim that has counted by the old rule."""
    tale.rule("desk", capacity=2)
    one = tale.job(needs='{"desk": 1}').claim()
    tale.rule("desk", capacity=1, settles=settles)
    tale.job(needs='{"desk": 1}').claim(1).begin().end().succeed()
    one.begin().end().succeed()


def rated(tale: Tale, *seconds: float, rate: float = 2.0) -> None:
    """Jobs that began at these instants."""
    tale.rule("mint", rate=rate, burst=2)
    for second in seconds:
        job = tale.job(needs='{"mint": 1}').claim(started_at=f"2026-11-30 07:00:{second:06.3f}+00")
        job.begin().end().succeed()


def beside(tale: Tale, *, overlap: bool, first: Telling | None = None, units: int = 1, name: str = "lamp") -> None:
    """Two whose handlers run at the same time, by what they themselves say."""
    one, other = tale.job().need(**{name: units}).claim(0), tale.job().need(**{name: 1}).claim(1)
    one.begin()
    if first:
        first(tale)
    if overlap:
        other.begin().end().succeed()
        one.end().succeed()
    else:
        one.end().succeed()
        other.begin().end().succeed()


def stamped(tale: Tale, *, claims: bool) -> None:
    """A queue has a limit from now on, and two of its jobs run."""
    one, other = tale.job().claim(0), tale.job().claim(1)
    tale.rule("queue:default", capacity=1)
    for job in (one, other):
        job.update(needs='{"queue:default": 1}')
    if claims:
        tale.job(needs='{"queue:default": 1}').run().succeed()
    one.begin().end().succeed()
    other.begin().end().succeed()


NEED = [
    Case(
        "a job begins beside those that were stamped with the limit of their queue",
        lambda tale: stamped(tale, claims=True),
        lambda tale: stamped(tale, claims=False),
    ),
    Case(
        "two jobs hold a name that has no rule",
        lambda tale: two_of('{"lamp": 1}', tale, in_turn=False),
        lambda tale: two_of('{"lamp": 1}', tale, in_turn=True),
    ),
    Case(
        "two jobs of a key run at a time",
        lambda tale: two_of('{"key:k": 1}', tale, in_turn=False),
        lambda tale: two_of('{"affinity:k": 1}', tale, in_turn=False),
    ),
    Case(
        "what is held grows, where more is held already than there is",
        lambda tale: lowered(tale, grows=True),
        lambda tale: lowered(tale, grows=False),
    ),
    Case(
        "what follows in the place of another needs what that did not hold",
        lambda tale: followed(tale, '{"lamp": 1}'),
        lambda tale: followed(tale, '{"desk": 1}'),
    ),
    Case(
        "a claim goes by a rule that everybody has left",
        lambda tale: loosened(tale, settles=True),
        lambda tale: loosened(tale, settles=False),
    ),
    Case(
        "more jobs begin than the burst",
        lambda tale: rated(tale, 1.0, 1.0, 1.0),
        lambda tale: rated(tale, 1.0, 1.0, 1.5),
    ),
    Case(
        "jobs begin faster than the rate",
        lambda tale: rated(tale, 1.0, 1.3, 1.6, 1.9, 2.2, 2.5, 2.8),
        lambda tale: rated(tale, 1.0, 1.3, 1.6, 1.9, 2.2, 2.5, 2.8, rate=3.5),
    ),
    Case(
        "a look sees that more is held than there is",
        lambda tale: tale.look("lamp", 2, 1),
        lambda tale: tale.job().run().succeed(),
    ),
    Case(
        "two handlers run that need the same lamp",
        lambda tale: beside(tale, overlap=True),
        lambda tale: beside(tale, overlap=False),
    ),
    Case(
        "three desks are taken, of two",
        lambda tale: beside(tale, overlap=True, units=2, name="desk"),
        lambda tale: beside(tale, overlap=True, units=1, name="desk"),
    ),
    Case(
        "beside a handler another begins, whose pool alone has stood still",
        lambda tale: beside(tale, overlap=True, first=lambda tale: tale.freeze(0, may_cost_jobs=False)),
        lambda tale: beside(tale, overlap=True, first=lambda tale: tale.freeze(0)),
    ),
    Case(
        "a job begins late in calm",
        lambda tale: tale.job().expect(3).pass_time(4).run().succeed(),
        lambda tale: tale.job().expect(3).pass_time(2).run().succeed(),
    ),
]

CLEAN = [
    Case("a running row is left", lambda tale: tale.leave(running_rows=1), lambda tale: tale.leave()),
    Case("a job is not run in time", lambda tale: tale.leave(unsettled_jobs=1), lambda tale: tale.leave()),
    Case("a transaction is left idle", lambda tale: tale.leave(idle_transactions=1), lambda tale: tale.leave()),
    Case("a transaction is left prepared", lambda tale: tale.leave(prepared_transactions=1), lambda tale: tale.leave()),
    Case("a process is left", lambda tale: tale.leave(processes=("7 (python)",)), lambda tale: tale.leave()),
    Case("a socket is left", lambda tale: tale.leave(sockets=1), lambda tale: tale.leave()),
    Case("a draft of an artifact is left", lambda tale: tale.leave(drafts=1), lambda tale: tale.leave()),
    Case("pieces are left", lambda tale: tale.leave(pieces_of_no_artifact=1), lambda tale: tale.leave()),
    Case("a log complains", lambda tale: tale.leave(complaints=("Traceback",)), lambda tale: tale.leave()),
]

BY_CODE: dict[Code, list[Case]] = {
    "LOST": LOST,
    "GHOST": GHOST,
    "MUTEX": MUTEX,
    "FENCE": FENCE,
    "ATT": ATT,
    "TOLD": TOLD,
    "EVENT": EVENT,
    "FILE": FILE,
    "HOOK": HOOK,
    "NEED": NEED,
    "CLEAN": CLEAN,
}
CASES = [pytest.param(code, case, id=case.sentence) for code, cases in BY_CODE.items() for case in cases]


@pytest.mark.parametrize(("code", "case"), CASES)
def test_a_bad_history_is_called_by_its_name_and_its_good_twin_passes(code: Code, case: Case) -> None:
    assert check(told(case.good)) == []
    assert _codes(told(case.bad)) == {code}
    # and a good job beside it does not hide it
    beside = Tale()
    beside.job().run().try_again().run().succeed()
    assert _codes(told(case.bad, beside)) == {code}


def _codes(history: History) -> set[Code]:
    return {violation.code for violation in check(history)}


def test_of_a_crash_that_forgets_claims_handlers_are_excused_and_commits_are_not() -> None:
    """The server's log has none of what it has forgotten. A handler runs on, and others take what that needs."""
    tale = Tale()
    one, other = tale.job(needs='{"lamp": 1}').need(lamp=1), tale.job(needs='{"lamp": 1}').need(lamp=1)
    one.begin(0, attempt=1)
    tale.crash_server()
    other.claim(1).begin()
    one.end()
    other.end().succeed()
    one.run(2).succeed()

    assert check(tale.history()) == []
    assert "NEED" in _codes(replace(tale.history(), excuses=()))


def test_there_are_at_least_forty_bad_histories() -> None:
    assert len({case.sentence for cases in BY_CODE.values() for case in cases}) == len(CASES) >= 40


@pytest.mark.parametrize("rule", [*checker.RULES, *checker.COMMON_RULES], ids=lambda rule: rule.__name__)
def test_no_rule_can_be_left_out(rule: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, some bad history passes."""
    monkeypatch.setattr(checker, "RULES", tuple(one for one in checker.RULES if one is not rule))
    monkeypatch.setattr(checker, "COMMON_RULES", tuple(one for one in checker.COMMON_RULES if one is not rule))
    assert any(not check(told(case.bad)) for cases in BY_CODE.values() for case in cases)


def test_a_violation_names_the_job_its_attempts_and_their_instants() -> None:
    tale = Tale()
    hero = tale.job().claim(0).begin().pass_time(4).crash().claim(1).begin().end(0).end().succeed()
    (violation,) = check(tale.history())

    assert str(hero.job) in violation.what
    for run in tale.runs:
        assert f"attempt {run.attempt} on host {run.host}" in violation.what
        assert f"{run.began_at:.3f} s until {run.ended_at:.3f} s" in violation.what


def test_a_violation_of_the_database_names_the_transaction() -> None:
    tale = Tale()
    tale.job().run().succeed().update(status="failed")
    (violation,) = check(tale.history())

    assert f"in transaction {tale.changes[-1].transaction}" in violation.what


def test_the_order_in_which_witnesses_are_heard_does_not_matter() -> None:
    """Runs come in the order of the log, which is that of their ends."""
    tale = Tale()
    tale.job().run().release().run(1).succeed()
    tale.job().claim(0).begin().release().claim(1).begin().end(0).end().succeed()
    history = tale.history()
    backwards = replace(history, runs=history.runs[::-1], calls=history.calls[::-1])

    assert _codes(history) == _codes(backwards) == {"MUTEX"}


# Generated ------------------------------------------------------------------------------------------------------------

long_tapes = st.binary(min_size=50, max_size=80)
tapes = st.binary(max_size=20) | st.binary(min_size=25, max_size=50)  # of its own accord it prefers short ones


@given(tapes)
@example(b"")
@settings(max_examples=2000, deadline=None)
def test_whatever_pushq_may_do_is_accepted(tape: bytes) -> None:
    assert check(play(tape)) == []


@given(tapes)
@settings(max_examples=200, deadline=None)
def test_it_is_accepted_as_well_when_handlers_do_not_tell_their_tokens(tape: bytes) -> None:
    history = play(tape)
    assert check(replace(history, runs=tuple(replace(run, token=None) for run in history.runs))) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@given(tape=long_tapes, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_what_pushq_may_not_do_is_found_in_whatever_it_does(mutation: Mutation, tape: bytes, seed: int) -> None:
    bad = mutation(play(tape), random.Random(seed))
    assume(bad is not None)
    assert bad
    assert MUTATIONS[mutation] in _codes(bad)


def test_the_simulator_plays_everything_that_it_knows() -> None:
    """Else it would prove little that its histories pass."""
    chance = random.Random(7)
    histories = [play(chance.randbytes(60)) for _ in range(300)]
    edges = {_edge(change.before, change.after) for history in histories for change in history.changes}
    answers = {(call.operation, call.answer) for history in histories for call in history.calls}
    runs = [run for history in histories for run in history.runs]

    assert edges >= {
        ("", "queued"),
        ("queued", "running"),
        ("queued", "queued"),
        ("running", "queued"),
        *((status, "") for status in ("queued", "running", "succeeded", "failed", "cancelled")),
        *(("", status) for status in ("succeeded", "failed", "cancelled")),
    }
    assert answers >= {("insert", "ok"), ("insert", "unknown"), ("insert", "failed"), ("cancel", "ok"), ("retry", "ok")}
    assert any(run.ended_at is None and run.died_at is None for run in runs)
    assert any(run.died_at is not None for run in runs)
    assert sum(_has_overlap(history) for history in histories) > 50


def _edge(before: Row | None, after: Row | None) -> tuple[str, str]:
    return before.status if before else "", after.status if after else ""


def _has_overlap(history: History) -> bool:
    return any(
        one.job == other.job and one.began_at < other.began_at < (one.ended_at or one.began_at)
        for one in history.runs
        for other in history.runs
    )
