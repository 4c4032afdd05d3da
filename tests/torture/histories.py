"""Histories made by hand, to test the checker: told act by act, and wrong where they are told to be.

    tale = Tale()
    tale.job().run(host=1).succeed()
    tale.history()

Every act is what pushq does, unless it is given a column that is not: `succeed(attempt=7)`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, Self
from uuid import UUID

from tests.torture.history import (
    Answer,
    Arrival,
    Call,
    Change,
    Completion,
    Delivery,
    Event,
    Excess,
    Excuse,
    Expected,
    File,
    Finish,
    History,
    Leftovers,
    Operation,
    Registration,
    Row,
    Rule,
    Run,
    Settled,
    Wait,
    Webhook,
)

LEASE = 2.0


class Tale:
    """A history in the making. Each act takes a tenth of a second."""

    def __init__(self, *, failures_allowed: int = 3, crashes_allowed: int = 3) -> None:
        self.now = 0.0
        self.failures_allowed = failures_allowed
        self.crashes_allowed = crashes_allowed
        self.calls: list[Call] = []
        self.runs: list[Run] = []
        self.changes: list[Change] = []
        self.registrations: list[Registration] = []
        self.excuses: list[Excuse] = []
        self.leftovers = Leftovers()
        self.waits: list[Wait] = []
        self.finishes: list[Finish] = []
        self.events: list[Event] | None = None
        self.completions: list[Completion] = []
        self.files: list[File] = []
        self.deliveries: list[Delivery] = []
        self.arrivals: list[Arrival] = []
        self.is_paused = False
        self.calm_from: float | None = None
        self.rules: list[Rule | Settled] = []
        self.steady_needs: dict[UUID, dict[str, int]] = {}
        self.excesses: list[Excess] = []
        self.expected: list[Expected] = []
        self._transactions = 700
        self._chance = random.Random(0)

    def job(self, answer: Answer = "ok", **how: Any) -> Hero:
        """A new job, and its insert."""
        return Hero(self, self.any_id()).insert(answer, **how)

    def nobody(self) -> Hero:
        """A job that nobody inserted."""
        return Hero(self, self.any_id())

    def pass_time(self, seconds: float) -> Self:
        self.now += seconds
        return self

    def freeze(self, host: int | None, seconds: float = 1.5 * LEASE, *, may_cost_jobs: bool = True) -> Self:
        """host: None is the server. may_cost_jobs: not only a pool of it."""
        self.excuses.append(Excuse(host, "frozen", self.now, self.now + seconds, may_cost_jobs))
        return self.pass_time(seconds)

    def crash_server(self) -> Self:
        """It forgets what nobody waited for in the second before."""
        self.excuses.append(Excuse(None, "server crashed", self.now - 1, self.now + 0.5))
        return self.pass_time(0.5)

    def declare_dead(self, host: int) -> Self:
        """Its supervisor's row is deleted."""
        return self._register(host, is_there=False)

    def revive(self, host: int) -> Self:
        """A heartbeat of its supervisor."""
        return self._register(host, is_there=True)

    def _register(self, host: int, *, is_there: bool) -> Self:
        transaction = self.next_transaction()
        self.registrations.append(Registration(transaction, f"host-{host}", is_there, len(self.changes)))
        return self

    def calm_down(self) -> Self:
        """All faults are over."""
        self.calm_from = self.now
        return self

    def rule(self, name: str, *, settles: bool = True, **how: Any) -> Self:
        """It is changed. settles: before anything else happens."""
        right = _columns(is_there=True, place=len(self.changes))
        self.rules.append(Rule(self.next_transaction(), name, **(right | how)))
        return self.settle(name) if settles else self

    def settle(self, name: str) -> Self:
        self.rules.append(Settled(name, len(self.changes)))
        return self

    def look(self, name: str, units: int, capacity: int) -> Self:
        """Somebody sees that more is held than there is."""
        self.excesses.append(Excess(self.now, name, units, capacity))
        return self

    def keep_events(self) -> Self:
        """All of the queue `history`."""
        self.events = []
        return self

    def leave(self, **what: Any) -> Self:
        self.leftovers = Leftovers(**what)
        return self

    def history(self) -> History:
        return History(
            lease=LEASE,
            failures_allowed=self.failures_allowed,
            crashes_allowed=self.crashes_allowed,
            calls=tuple(self.calls),
            runs=tuple(self.runs),
            changes=tuple(self.changes),
            registrations=tuple(self.registrations),
            excuses=tuple(self.excuses),
            leftovers=self.leftovers,
            allowed={"picky": 2},
            waits=tuple(self.waits),
            finishes=tuple(self.finishes),
            events=None if self.events is None else tuple(self.events),
            all_events_of=frozenset({"history"}),
            completions=tuple(self.completions),
            inserts_of=frozenset({"noted"}),
            files=tuple(self.files),
            deliveries=tuple(self.deliveries),
            arrivals=tuple(self.arrivals),
            webhooks=(Webhook("gone", "/gone", self.is_paused),),
            told={"hook": "told"},
            calm_from=self.calm_from,
            rules=tuple(self.rules),
            steady_needs=self.steady_needs,
            steady={"lamp": 1, "desk": 2, "key:": 1},
            excesses=tuple(self.excesses),
            expected=tuple(self.expected),
        )

    def pause(self) -> Self:
        """The webhook `gone`."""
        self.is_paused = True
        return self

    def any_id(self) -> UUID:
        return UUID(int=self._chance.getrandbits(128), version=4)

    def next_transaction(self) -> int:
        self.now += 0.1
        self._transactions += 1
        return self._transactions


class Hero:
    """One job of a tale. row: as it stands; runs: where its runs are in the tale's."""

    def __init__(self, tale: Tale, job: UUID) -> None:
        self.tale = tale
        self.job = job
        self.row = Row(job, "queued", 0, 0, 0, None, None, None, is_finished=False)
        self.runs: list[int] = []
        self.host = 0

    # Clients --------------------------------------------------------------------------------------------------

    def insert(self, answer: Answer = "ok", *, commits: bool | None = None, **columns: Any) -> Self:
        """commits: whether it did; by default, unless it failed."""
        self.ask("insert", answer)
        if commits if commits is not None else answer != "failed":
            self.appear(**columns)
        return self

    def cancel(self, answer: Answer = "ok", *, did: str | None = None) -> Self:
        return self.ask("cancel", answer, did).move(status="cancelled", token=None)

    def retry(self, answer: Answer = "ok", **wrong: Any) -> Self:
        """By hand."""
        return self.ask("retry", answer).reset(**wrong)

    def ask(self, operation: Operation, answer: Answer = "ok", did: str | None = None, *, seconds: float = 0.1) -> Self:
        """Only that: what the database then does is another act."""
        self.tale.calls.append(Call(operation, self.job, answer, self.tale.now, self.tale.now + seconds, did))
        self.tale.now += 0.1
        return self

    def need(self, **units: int) -> Self:
        """What its client says that it needs. What the database says is a column."""
        self.tale.steady_needs[self.job] = units
        return self

    def expect(self, within: float) -> Self:
        """It can begin from now on."""
        self.tale.expected.append(Expected(self.job, self.tale.now, within, "a test"))
        return self

    def wait(self, **how: Any) -> Self:
        """Somebody waits, and is told at once how the job stands now."""
        now, status = self.tale.now, self.row.status
        right = _columns(began_at=now, ended_at=now + 0.1, heard=status, found=status, could_hear=True)
        self.tale.waits.append(Wait(self.job, **(right | how)))
        return self

    # Guests ---------------------------------------------------------------------------------------------------

    def answer(self, kind: str, *, has_counted: bool | None = True) -> Self:
        """pushq.finish answers the guest that holds the job; what it then does is another act."""
        assert self.row.token
        self.tale.finishes.append(Finish(self.job, self.row.token, kind, has_counted))
        return self

    # Pools ----------------------------------------------------------------------------------------------------

    def claim(self, host: int = 0, **wrong: Any) -> Self:
        self.host = host
        attempt, token = self.row.attempt + 1, self.tale.any_id()
        right = _columns(status="running", attempt=attempt, token=token, supervisor=f"host-{host}")
        return self.update(**(right | wrong))

    def begin(
        self,
        host: int | None = None,
        *,
        attempt: int | None = None,
        pid: int | None = None,
        tells: bool = True,
        kept_until: float | None = None,
    ) -> Self:
        """A run of the attempt that was claimed last. By default its process is its own. tells: its token. kept_until:
        it is a guest's."""
        self.runs.append(len(self.tale.runs))
        self.host = self.host if host is None else host
        run = Run(
            self.job,
            self.row.attempt if attempt is None else attempt,
            self.host,
            1000 + len(self.tale.runs) if pid is None else pid,
            self.tale.now,
            None,
            token=(self.row.token or self.tale.any_id()) if tells else None,
            kept_until=kept_until,
        )
        self.tale.runs.append(run)
        return self.pass_time(0.1)

    def end(self, which: int = -1, *, returned: bool | None = None) -> Self:
        """which: of its runs; the last one. returned: whether, where the handler says it."""
        return self._say(which, ended_at=self.tale.now, returned=returned)

    def die(self, which: int = -1) -> Self:
        """The process of a run is killed."""
        return self._say(which, died_at=self.tale.now)

    def run(self, host: int = 0) -> Self:
        return self.claim(host).begin().end()

    def succeed(self, **wrong: Any) -> Self:
        return self.move(**(_columns(status="succeeded", told=None) | wrong))

    def fail(self, **wrong: Any) -> Self:
        """For good."""
        return self.move(**(_columns(status="failed", failures=self.row.failures + 1, told=None) | wrong))

    def give_up(self, **wrong: Any) -> Self:
        """Its handler cancels it."""
        return self.move(**(_columns(status="cancelled", told=None) | wrong))

    def release(self, **wrong: Any) -> Self:
        """At no charge: by a pool that stops, or because the handler asked for another time."""
        return self.update(**(_columns(status="queued", token=None) | wrong))

    def leave_file(self, name: str = "a", *, which: int = -1, **wrong: Any) -> Self:
        """The handler of a run leaves a file with its job, in place of an earlier attempt's."""
        run = self.tale.runs[self.runs[which]]
        token, content = run.token or self.tale.any_id(), f"{run.attempt} abc"
        transaction = self.tale.next_transaction()
        self.tale.completions.append(Completion(transaction, self.job, token, name, len(self.tale.changes)))
        self.lose_file(name)
        right = _columns(attempt=run.attempt, token=token, row=content, pieces=content)
        self.keep_file(name, **(right | wrong))
        return self._say(which, files={**run.files, name: content})

    def keep_file(self, name: str = "a", **how: Any) -> Self:
        """A file is there, wherever it comes from."""
        right = _columns(attempt=1, token=self.tale.any_id(), row="0 abc", pieces="0 abc")
        self.tale.files.append(File(self.job, name=name, **(right | how)))
        return self

    def lose_file(self, name: str) -> Self:
        self.tale.files = [file for file in self.tale.files if (file.job, file.name) != (self.job, name)]
        return self

    def try_again(self, **wrong: Any) -> Self:
        """After a failure."""
        return self.release(**(_columns(failures=self.row.failures + 1, told=None) | wrong))

    def go_on_no_more(self) -> Self:
        """Its attempt fails, and it is being cancelled: queued and ended by one transaction."""
        held = self.row
        queued = replace(held, status="queued", token=None, failures=held.failures + 1)
        self.row = replace(queued, status="cancelled", is_finished=True, is_cancelling=False)
        return self._commit((held, queued), (queued, None), (None, self.row))

    def crash(self, **wrong: Any) -> Self:
        """What a supervisor or a sweeper does after its process died."""
        crashes = self.row.crashes + 1
        if crashes < self.tale.crashes_allowed:
            return self.release(**(_columns(crashes=crashes) | wrong))
        return self.move(**(_columns(status="failed", crashes=crashes, token=None) | wrong))

    # Webhooks -------------------------------------------------------------------------------------------------

    def tell(self, tells: str, receiver: str = "hook", **wrong: Any) -> Self:
        """A delivery in the last transaction. It succeeds in the end."""
        number, transaction = len(self.tale.deliveries), self.tale.changes[-1].transaction
        right = _columns(receiver=receiver, number=number, tells=tells, transaction=transaction, status="succeeded")
        self.tale.deliveries.append(Delivery(self.tale.any_id(), self.job, **(right | wrong)))
        return self

    def arrive(self, which: int = -1, **wrong: Any) -> Self:
        """One of the tale's deliveries, the last one, is received and accepted."""
        one = self.tale.deliveries[which]
        right = _columns(delivery=one.id, job=one.job, tells=one.tells, path="/hook", at=self.tale.now, status=200)
        self.tale.arrivals.append(Arrival(**(right | wrong)))
        return self.pass_time(0.1)

    # The database ---------------------------------------------------------------------------------------------

    def appear(self, **columns: Any) -> Self:
        """A row from nowhere."""
        self.row = replace(self.row, **columns)
        return self._commit((None, self.row))

    def vanish(self) -> Self:
        return self._commit((self.row, None))

    def update(self, *, found: Row | None = None, **columns: Any) -> Self:
        """found: the row as the update found it, where that is not as it stood."""
        before, self.row = found or self.row, replace(self.row, **columns)
        return self._commit((before, self.row))

    def move(self, *, found: Row | None = None, **columns: Any) -> Self:
        """From the unfinished ones into a day, or back."""
        before = found or self.row
        self.row = replace(self.row, is_finished=not self.row.is_finished, is_cancelling=False)
        self.row = replace(self.row, **columns)
        return self._commit((before, None), (None, self.row))

    def mark_cancelling(self) -> Self:
        """By pushq.cancel, if somebody waits for the job that runs."""
        return self.ask("cancel", did="cancelling").update(is_cancelling=True)

    def note(self, kind: str, was: str, became: str, transaction: int | None = None) -> Self:
        """An event, in the last transaction."""
        assert self.tale.events is not None
        its_own = self.tale.changes[-1].transaction if transaction is None else transaction
        self.tale.events.append(Event(self.job, kind, was, became, self.row.attempt, its_own))
        return self

    def touch(self) -> Self:
        """What changes nothing that matters, such as an owner's UPDATE."""
        return self.update()

    def reset(self, **wrong: Any) -> Self:
        """What pushq.retry does to a job that does not run."""
        columns = _columns(status="queued", failures=0, crashes=0, token=None) | wrong
        return self.move(**columns) if self.row.is_finished else self.update(**columns)

    # ----------------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> Self:
        self.tale.pass_time(seconds)
        return self

    def freeze(self, host: int | None, seconds: float = 1.5 * LEASE, *, may_cost_jobs: bool = True) -> Self:
        self.tale.freeze(host, seconds, may_cost_jobs=may_cost_jobs)
        return self

    def crash_server(self) -> Self:
        self.tale.crash_server()
        return self

    def _commit(self, *changes: tuple[Row | None, Row | None]) -> Self:
        transaction = self.tale.next_transaction()
        self.tale.changes += [Change(transaction, before, after) for before, after in changes]
        return self

    def _say(self, which: int, **what: Any) -> Self:
        place = self.runs[which]
        self.tale.runs[place] = replace(self.tale.runs[place], **what)
        return self.pass_time(0.1)


def _columns(**columns: Any) -> dict[str, Any]:
    return columns
