"""The table does what its model says: after every step of a random history the two agree in every column.

`make test` tries the same histories each time. To try others, and many of them, say how many and give it the time:

    PUSHQ_TEST_EXAMPLES=5000 .venv/bin/pytest -n 0 --timeout 0 tests/model -k agree

A failure shows the steps that led to it; there, after Hypothesis has made them as few as it can.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import date, timedelta
from math import inf
from time import monotonic
from typing import Any, ClassVar, Self
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pushq.database import statements
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.database.store import Claimant, Store
from pushq.errors import PushqError
from pushq.job import Job, NewJob
from pushq.outcome import Kind, Outcome
from pushq.queue import Queue
from pushq.sweeper import Sweeper, witness
from tests.model.real_table import RETENTION, RealTable, foreseen, real_table
from tests.model.table_model import AGE, AGES_A_DAY, LARGEST_WITH_CLAIM, Ending, NewRow, Row, Swept, TableModel
from tests.support.days import make_day
from tests.support.jobs import Connection

# What is drawn ------------------------------------------------------------------------------------------------

SUPERVISORS = ("anna", "berta", "clara")
TASKS = ("mail", "report", "newcomer")
QUEUES = ("default", "bulk", "aside")
USUAL_TASKS, USUAL_QUEUES = TASKS[:2], QUEUES[:2]


class Payload(str):
    """JSON text, which histories show by a name."""

    __slots__ = ("name",)
    name: str

    def __new__(cls, name: str, value: object) -> Self:
        payload = super().__new__(cls, json.dumps(value))
        payload.name = name
        return payload

    def __repr__(self) -> str:
        return self.name


PAYLOADS = (
    Payload("EMPTY", {}),
    Payload("LARGE", {"noise": random.Random(0).randbytes(5000).hex()}),
    Payload("REPETITIVE", {"same": "x" * 2 * LARGEST_WITH_CLAIM}),
)
RESULTS = (None, '{"sent": true}', "[1, 2.50]")

few = st.integers(0, 2)
supervisors = st.sampled_from(SUPERVISORS)
queues = st.sampled_from(QUEUES)
pools = st.sampled_from((1, 2))
some_ids = st.integers(1, 60).map(lambda number: UUID(int=number))


def mostly(usual: tuple[str, ...], among: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    """The usual ones, or some of all in any order."""
    some = st.lists(st.sampled_from(among), min_size=1, unique=True).map(tuple)
    return st.one_of(st.just(usual), st.just(usual), some)


def new_rows(ids: st.SearchStrategy[Any] = some_ids) -> st.SearchStrategy[NewRow]:
    return st.builds(
        NewRow,
        id=ids,
        task=st.sampled_from((*USUAL_TASKS, *TASKS)),
        payload=st.sampled_from((*PAYLOADS[:1] * 4, *PAYLOADS)),
        queue=st.sampled_from((*USUAL_QUEUES, *QUEUES)),
        priority=st.sampled_from((0, 0, -1, 7)),
        due_in=st.sampled_from((None, None, None, 0, -1, -2, 1, 2)),
        max_attempts=st.sampled_from((None, 3)),
        timeout=st.sampled_from((None, timedelta(seconds=1.5))),
        unique_key=st.sampled_from((None, None, None, "key", "other key")),
        tenant_id=st.sampled_from((None, "acme")),
        correlation_id=st.sampled_from((None, "order 66")),
    )


def batches(*, min_size: int, max_size: int) -> st.SearchStrategy[list[NewRow]]:
    return st.lists(new_rows(), min_size=min_size, max_size=max_size, unique_by=lambda row: row.id)


claimants = st.builds(
    Claimant,
    supervisor=supervisors,
    pool=pools,
    queues=mostly(USUAL_QUEUES, QUEUES),
    tasks=mostly(USUAL_TASKS, TASKS),
)


@dataclass(frozen=True)
class How:
    """How an attempt is to end."""

    kind: Kind
    error: str | None = None
    traceback: str | None = None
    result: str | None = None
    ran: int = 0
    ago: int = 0


errors = st.sampled_from(("ValueError: no", "TimeoutError: late"))
tracebacks = st.none() | st.just("Traceback: here")
hows = st.one_of(
    st.builds(How, kind=st.just(Kind.SUCCEEDED), result=st.sampled_from(RESULTS), ran=few, ago=st.sampled_from((0, 1))),
    st.builds(How, kind=st.sampled_from((Kind.FAILED, Kind.CANCELLED)), error=errors, traceback=tracebacks, ran=few),
    st.builds(How, kind=st.just(Kind.RETRIED), error=errors, traceback=tracebacks),
    st.builds(How, kind=st.sampled_from((Kind.SNOOZED, Kind.RELEASED))),
)


def endings(attempts: Iterable[Job], hows: Iterable[How], delay: int) -> list[Ending]:
    """How attempts end. Each that goes on is delayed for longer than the one before: two instants are never equal."""
    return [
        Ending(
            id=attempt.id,
            token=attempt.token,
            kind=how.kind,
            delay=delay + number,
            error=how.error,
            traceback=how.traceback,
            result=how.result,
            ran=how.ran,
            ago=how.ago,
        )
        for number, (attempt, how) in enumerate(zip(attempts, hows, strict=False))
    ]


# What is given to pushq, and what it gives ------------------------------------------------------------------------


def claimed(row: Row) -> Job:
    """A job as its claim hands it over."""
    assert row.token is not None
    return Job(
        id=row.id,
        task=row.task,
        queue=row.queue,
        payload=row.payload if len(row.payload) <= LARGEST_WITH_CLAIM else None,
        attempt=row.attempt,
        failures=row.failures,
        crashes=row.crashes,
        max_attempts=row.max_attempts,
        timeout=row.timeout,
        tenant_id=row.tenant_id,
        correlation_id=row.correlation_id,
        token=row.token,
    )


def outcome(ending: Ending) -> Outcome:
    """As a pool writes it."""
    ended = monotonic() - ending.ago * AGE.total_seconds()
    return Outcome(
        _attempt(ending),
        ending.kind,
        delay=ending.delay * AGE.total_seconds(),
        error=ending.error,
        traceback=ending.traceback,
        result=ending.result,
        began=ended - ending.ran * AGE.total_seconds(),
        ended=ended,
    )


def _attempt(ending: Ending) -> Job:
    """Of its job a finish looks at the id and the token alone."""
    return Job(ending.id, "", "", None, 0, 0, 0, None, None, None, None, ending.token)


async def insert(connection: Connection, row: NewRow, end: str = "") -> list[UUID]:
    """As any program would. What is None is left out, for the table's default."""
    columns = "id task payload queue priority max_attempts timeout unique_key tenant_id correlation_id".split()
    given = {name: value for name in columns if (value := getattr(row, name)) is not None}
    names, values = list(given), [f"${number}" for number in range(1, len(given) + 1)]
    if row.due_in is not None:
        names.append("run_at")
        values.append(f"now() + {row.due_in} * interval '{AGE.total_seconds():.0f} s'")
    inserted = await connection.fetch(
        f"insert into pushq.jobs ({', '.join(names)}) values ({', '.join(values)}) {end} returning id", *given.values()
    )
    return [one["id"] for one in inserted]


async def insert_batch(connection: Connection, rows: Sequence[NewRow]) -> list[UUID]:
    """With pushq's own client."""
    now = await connection.fetchval("select now()")
    jobs = [
        NewJob(
            row.task,
            json.loads(row.payload),
            queue=row.queue,
            priority=row.priority,
            run_at=now + row.due_in * AGE if row.due_in else None,
            max_attempts=row.max_attempts,
            timeout=row.timeout,
            unique_key=row.unique_key,
            tenant_id=row.tenant_id,
            correlation_id=row.correlation_id,
            id=row.id,
        )
        for row in rows
    ]
    return await Queue().insert_many(jobs, connection=connection)


# The machine --------------------------------------------------------------------------------------------------


def usual(name: str, pool: int = 1) -> Claimant:
    return Claimant(name, pool, USUAL_QUEUES, USUAL_TASKS)


def weighted(**weights: int) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name, weight in weights.items() for _ in range(weight)])


ACTS = weighted(
    insert_batch=3,
    insert=4,
    insert_and_roll_back=1,
    claim=6,
    claim_some=3,
    claim_suspect=2,
    finish=9,
    requeue=3,
    die=2,
    change_job=5,
    change_queue=3,
    live=3,
    park=2,
    ask=2,
    let_time_pass=3,
    let_days_pass=2,
    sweep=3,
)


class TableMachine(RuleBasedStateMachine):
    """Each act does something to the table and to the model, and compares what they answer."""

    table: ClassVar[RealTable]

    def __init__(self) -> None:
        super().__init__()
        self.model: TableModel = self.table.wait(self.table.empty())
        self.sweeper = Sweeper(self.table.store, retention=timedelta(days=RETENTION).total_seconds())
        self.ids: list[UUID] = []  # all that there were
        self.attempts: list[Job] = []  # the same: most are stale

    @invariant()
    def the_table_and_its_model_agree(self) -> None:
        assert self.table.wait(self.table.look(self.model.now.age)) == foreseen(self.model)
        self.model.begin_step(self.table.today)

    @initialize(rows=batches(min_size=3, max_size=6))
    def begin(self, rows: list[NewRow]) -> None:
        self._live(usual("anna"), lease=3)
        self._insert_batch(rows)

    @rule(data=st.data(), act=ACTS)
    def do(self, data: st.DataObject, act: str) -> None:
        """One rule, since Hypothesis leaves out rules at random, and what comes of a claim takes several."""
        getattr(self, act)(data)

    def note(self, happening: str, times: int = 1) -> None:
        self.table.happened[happening] += times

    @property
    def store(self) -> Store:
        return self.table.store

    @property
    def connection(self) -> Connection:
        return self.table.connection

    # Producers ------------------------------------------------------------------------------------------------

    def insert_batch(self, data: st.DataObject) -> None:
        self._insert_batch(data.draw(batches(min_size=1, max_size=5)))

    def _insert_batch(self, rows: list[NewRow]) -> None:
        inserted = sorted(self.table.wait(insert_batch(self.connection, rows)))
        assert inserted == sorted(self.model.insert(*rows))
        self.ids += inserted

    def insert(self, data: st.DataObject) -> None:
        row, unless_taken = data.draw(new_rows(st.none() | some_ids)), data.draw(st.booleans())
        if self.model.is_taken(row) and not unless_taken:
            with pytest.raises(asyncpg.UniqueViolationError) as refusal:
                self.table.wait(insert(self.connection, row))
            assert refusal.value.constraint_name in ("jobs_unfinished_id_is_unique", "jobs_unfinished_unique_key")
            self.note("an insert was refused")
            return
        inserted = self.table.wait(insert(self.connection, row, "on conflict do nothing" if unless_taken else ""))
        if row.id is None and inserted:
            row = replace(row, id=inserted[0])
        assert inserted == self.model.insert(row)
        self.ids += inserted
        self.note("an insert was left out", not inserted)

    def insert_and_roll_back(self, data: st.DataObject) -> None:
        row = data.draw(new_rows(st.none()))

        async def roll_back() -> None:
            transaction = self.connection.transaction()
            await transaction.start()
            await insert(self.connection, row, "on conflict do nothing")
            await transaction.rollback()

        self.table.wait(roll_back())

    # Claims ---------------------------------------------------------------------------------------------------

    def claim(self, data: st.DataObject) -> None:
        self._claim_as_usual(data.draw(supervisors), data.draw(pools), limit=data.draw(st.integers(1, 5)))

    def _claim_as_usual(self, name: str, pool: int, *, limit: int) -> None:
        """As it mostly is: for a supervisor that lives."""
        claimant = usual(name, pool)
        if not self.model.is_live(name):
            self._live(claimant, lease=3)
        self._claim(claimant, limit)

    def claim_some(self, data: st.DataObject) -> None:
        self._claim(data.draw(claimants), data.draw(st.integers(1, 5)))

    def _claim(self, claimant: Claimant, limit: int) -> None:
        self._register_at_first(claimant)
        token = uuid4()
        jobs = sorted(self.table.wait(self.store.claim(claimant, token, limit)))  # a claim's reply has no order
        assert jobs == sorted(map(claimed, self.model.claim(*_of(claimant), token, limit)))
        self.attempts += jobs
        self.note("a claim took jobs", bool(jobs))

    def claim_suspect(self, data: st.DataObject) -> None:
        self._claim_suspect(data.draw(claimants))

    def _claim_suspect(self, claimant: Claimant) -> None:
        self._register_at_first(claimant)
        token = uuid4()
        jobs = self.table.wait(self.store.claim_suspect(claimant, token))
        assert jobs == list(map(claimed, self.model.claim_suspect(*_of(claimant), token)))
        self.attempts += jobs
        self.note("a suspect was claimed", len(jobs))

    def _register_at_first(self, claimant: Claimant) -> None:
        """A pool has registered before it claims."""
        if not self.model.serves(claimant.queues, claimant.tasks):
            self._register(claimant)

    # The ends of attempts -------------------------------------------------------------------------------------

    def finish(self, data: st.DataObject) -> None:
        """What runs, and under tokens of old. It is repeated where its reply was lost."""
        if not self.model.running:
            self._claim_as_usual("anna", 1, limit=3)
        running = [claimed(row) for row in self.model.running]
        batch = data.draw(st.lists(st.sampled_from(running), min_size=1, max_size=4)) if running else []
        batch += data.draw(st.lists(st.sampled_from(self.attempts), max_size=2)) if self.attempts else []
        told = endings(dict.fromkeys(batch), data.draw(st.lists(hows, min_size=6, max_size=6)), data.draw(few))
        self._finish(told)
        if data.draw(st.booleans()):
            self._finish(told)
            done = self.table.wait(self.store.finished_with_token([outcome(ending) for ending in told]))
            assert done == self.model.finished_with_token(told)
            self.note("a lost reply was made good", bool(done))

    def _finish(self, told: list[Ending]) -> None:
        accepted = self.table.wait(self.store.finish([outcome(ending) for ending in told]))
        assert accepted == self.model.finish(told)
        self.note("a batch was accepted", 0 < len(accepted) == len(told))
        self.note("a batch was accepted in part", 0 < len(accepted) < len(told))
        self.note("a batch was refused", bool(told) and not accepted)

    def requeue(self, data: st.DataObject) -> None:
        """A pool has died, or was stopped with jobs in hand; or all of a supervisor's."""
        self._requeue(data.draw(supervisors), data.draw(st.none() | pools), crashed=data.draw(st.booleans()))

    def _requeue(self, name: str, pool: int | None, *, crashed: bool) -> None:
        taken = self.table.wait(self.store.requeue([name], pool=pool, crashed=crashed))
        assert sorted(map(astuple, taken)) == sorted(self.model.requeue([name], pool=pool, crashed=crashed))
        self.note("a job was taken away", len(taken))
        self.note("a third crash", sum(job.status == "failed" for job in taken))

    def die(self, data: st.DataObject) -> None:
        """A pool dies of its jobs, and the next one again."""
        name, pool = data.draw(supervisors), data.draw(pools)
        for _ in range(data.draw(st.integers(1, 3))):
            self._claim_as_usual(name, pool, limit=2)
            self._claim_suspect(usual(name, pool))
            self._requeue(name, pool, crashed=True)
            self.the_table_and_its_model_agree()

    # Those who look after it ----------------------------------------------------------------------------------

    def live(self, data: st.DataObject) -> None:
        """A supervisor gives a sign of life, and a pool of it says what it knows and serves; or it says goodbye."""
        claimant = data.draw(claimants)
        if lease := data.draw(st.integers(0, 3)):
            self._live(claimant, lease)
        else:
            self.table.wait(self.store.goodbye(claimant.supervisor))
            self.model.goodbye(claimant.supervisor)

    def _live(self, claimant: Claimant, lease: int) -> None:
        beat = self.store.heartbeat(claimant.supervisor, "host", 1, lease * AGE.total_seconds())
        has_lapsed = self.table.wait(beat)
        assert has_lapsed == self.model.heartbeat(claimant.supervisor, lease)
        self._register(claimant)

    def _register(self, claimant: Claimant) -> None:
        self.table.wait(self.store.register(claimant))
        self.model.register(claimant.supervisor, claimant.tasks, claimant.queues)

    def change_job(self, data: st.DataObject) -> None:
        function, one = data.draw(weighted(cancel=2, retry=3)), st.sampled_from(self.ids)
        self._call(function, data.draw(st.one_of(one, one, one, some_ids)))

    def change_queue(self, data: st.DataObject) -> None:
        queue = data.draw(queues)
        is_paused = self.model.is_paused(queue)
        self._call(data.draw(weighted(pause=1, resume=3) if is_paused else weighted(pause=3, resume=1)), queue)

    def _call(self, function: str, argument: UUID | str) -> None:
        said = self.table.wait(self.connection.fetchval(f"select pushq.{function}($1)", argument))
        assert said == getattr(self.model, function)(argument)
        self.note(f"{function}: {said}")

    def park(self, data: st.DataObject) -> None:
        """As a sweep does when there are many jobs; and unparks, maybe after somebody has come who knows the tasks."""
        parked = self.table.wait(self.store.park())
        assert parked == self.model.park()
        self.the_table_and_its_model_agree()
        if data.draw(st.booleans()):
            self._live(Claimant("clara", 1, QUEUES, TASKS), lease=1)
        unparked = self.table.wait(self.store.unpark())
        assert unparked == self.model.unpark()
        self.note("a job was parked", parked)
        self.note("a job was unparked", unparked)

    def ask(self, data: st.DataObject) -> None:
        """What changes nothing."""
        claimant = data.draw(claimants)
        served = claimant.queues, claimant.tasks
        outlook = self.table.wait(self.store.next_due(claimant))
        assert _in_ages(outlook.due_in) == self.model.next_due_in(*served)
        assert outlook.lease_is_live == self.model.is_live(claimant.supervisor)
        upkeep = self.table.wait(self.store.upkeep(claimant.supervisor, *served, 2))
        suspects, due_in = self.model.suspects(*served)
        assert upkeep.suspects == min(suspects, 2)
        assert _in_ages(upkeep.suspect_due_in) == due_in
        assert set(upkeep.pools) == self.model.pools_with_jobs(claimant.supervisor)
        for attempt in self.attempts[-5:]:
            back = self.table.wait(self.store.take_back(claimant.supervisor, attempt.token))
            assert sorted(back) == sorted(map(claimed, self.model.take_back(claimant.supervisor, attempt.token)))
            assert self.table.wait(self.store.payload(attempt)) == self.model.payload(attempt.id, attempt.token)

    # Time and the sweeper -------------------------------------------------------------------------------------

    def let_time_pass(self, data: st.DataObject) -> None:
        """For everybody; or the database's clock is set, which may be back."""
        ages = data.draw(st.sampled_from((1, 2, 3, -1, -3)))
        if ages < 0 or data.draw(st.booleans()):
            self.table.wait(self.table.age(ages, sweepers_ages=0))
            self.model.set_clock(ages)
        else:
            self._let_time_pass(ages)

    def _let_time_pass(self, ages: int) -> None:
        self.table.wait(self.table.age(ages, sweepers_ages=ages))
        self.model.let_pass(ages)

    def let_days_pass(self, data: st.DataObject) -> None:
        days = data.draw(st.integers(1, 3))
        for day in self.model.let_days_pass(days):
            self.table.wait(make_day(self.connection, day))
        ages = days * AGES_A_DAY
        self.table.wait(self.table.age(ages, sweepers_ages=ages, days=days))
        if data.draw(st.booleans()):
            self.the_table_and_its_model_agree()
            self._sweep()

    def sweep(self, data: st.DataObject) -> None:
        """Once, or again after a while: who has fallen silent is dead only then."""
        self._sweep()
        if ages := data.draw(st.sampled_from((0, 1, 3))):
            self.the_table_and_its_model_agree()
            self._let_time_pass(ages)
            self._sweep()

    def _sweep(self) -> None:
        finished = len(self.model.finished)
        self.table.wait(self.table.forget_real_time())
        swept = self.table.wait(self.sweeper.sweep())
        assert swept.dropped == swept.retired
        assert self.model.sweep() == Swept(
            dead=frozenset(swept.dead),
            requeued=swept.requeued,
            failed=swept.failed,
            made=frozenset(map(date.fromisoformat, swept.made)),
            retired=frozenset(map(date.fromisoformat, swept.retired)),
        )
        self.note("a supervisor was buried", len(swept.dead))
        self.note("a job of the dead was requeued", swept.requeued)
        self.note("jobs were retired", len(self.model.finished) < finished)
        self.note("tallies were folded", bool(swept.folded))


def _in_ages(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds / AGE.total_seconds())


def _of(claimant: Claimant) -> tuple[str, int, tuple[str, ...], tuple[str, ...]]:
    return claimant.supervisor, claimant.pool, claimant.queues, claimant.tasks


# Histories ----------------------------------------------------------------------------------------------------

EXAMPLES = os.environ.get("PUSHQ_TEST_EXAMPLES")
HISTORIES = settings(
    max_examples=int(EXAMPLES or 50),
    stateful_step_count=50,
    derandomize=not EXAMPLES,
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

NOTABLE = (
    "an insert was refused",
    "an insert was left out",
    "a claim took jobs",
    "a suspect was claimed",
    "a batch was accepted",
    "a batch was accepted in part",
    "a batch was refused",
    "a lost reply was made good",
    "a job was taken away",
    "a third crash",
    "a supervisor was buried",
    "a job of the dead was requeued",
    "a job was parked",
    "a job was unparked",
    "jobs were retired",
    "tallies were folded",
    "cancel: cancelled",
    "retry: queued",
    "retry: unknown",
    "pause: paused",
    "resume: resumed",
)
"""What has to have happened, or agreement proves little."""


@pytest.fixture
def table(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealTable]:
    monkeypatch.setattr(witness, "SLOW_ANSWER", inf)  # of a machine that is busy with other tests
    with real_table(database_url) as table:
        monkeypatch.setattr(TableMachine, "table", table, raising=False)
        yield table


@pytest.mark.timeout(240)  # some thousand steps, beside everything else
def test_the_table_and_its_model_agree_after_every_step(table: RealTable) -> None:
    run_state_machine_as_test(TableMachine, settings=HISTORIES)

    print(dict(table.happened))
    assert [happening for happening in NOTABLE if not table.happened[happening]] == []


# Bugs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    """A statement, or a function in the database, in which `text` is replaced wherever it stands."""

    place: str
    text: str
    by: str = ""

    def planted_in(self, text: str) -> str:
        assert self.text in text
        return text.replace(self.text, self.by)


FOUND_WITHIN = 50
"""Histories. What needs several rare things in a row is looked for in tests/isolation, by every order of few steps."""

BUGS = {
    "finishes without the token": Bug("finish", " and job.token = outcome.token"),
    "forgets the token of what is finished": Bug("finish", "pool, token, last_error", "pool, null, last_error"),
    "charges a snooze as a failure": Bug("finish", "outcome.kind = 'retried'", "outcome.kind <> 'released'"),
    "delays what is released": Bug("finish", "case when outcome.kind = 'released'", "case when false"),
    "claims from a paused queue": Bug("claim", "paused.paused_at is not null", "false"),
    "claims what is not due": Bug("claim", " and job.run_at <= (select due_by from mark)"),
    "claims suspects beside others": Bug("claim", " and job.crashes < 2"),
    "claims tasks that the pool does not know": Bug("claim", "job.task = any($2::text[])", "$2::text[] is not null"),
    "claims for a supervisor whose lease has run out": Bug("claim", " and lease_until > now()"),
    "claims the oldest id first": Bug("claim", "order by job.run_at, job.id", "order by job.id"),
    "claims by queue before priority": Bug("claim", "and job.priority = level.priority", ""),
    "claims from any queue first": Bug("claim", "order by queue.position", "order by queue.position desc"),
    "claims its limit of each priority": Bug("claim", "now())\n    limit $6", "now())"),
    "counts no attempt": Bug("claim", "attempt = attempt + (attempt < 2147483647)::int", "attempt = attempt"),
    "charges a crash as a failure": Bug("requeue", "crashes = crashes + $3", "failures = failures + $3"),
    "forgives a third crash": Bug("requeue", "job.crashes + 1 >= 3", "job.crashes + 1 >= 4"),
    "takes the jobs of the pool's neighbours": Bug("requeue", "or pool = $2", "or pool > 0"),
    "parks what somebody knows": Bug("park", "task <> all(array(select task from known))", "true"),
    "folds anew what was folded": Bug("fold", "sums.jobs + excluded.jobs", "excluded.jobs"),
    "does not count who was cancelled": Bug("pushq.cancel(uuid)", "'cancelled', -1, -1, 1", "'cancelled', -1, -1, 0"),
    "resumes every queue": Bug("pushq.resume(text)", "known.name = resume.queue and "),
    "retires a day that may still be young": Bug(
        "pushq.retire_days(interval)", "and newer.day <= (now() - keep) at time zone 'utc'"
    ),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_the_model_tells_a_table_that(table: RealTable, monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    if "(" in bug.place:
        definition = table.connection.fetchval(f"select pg_get_functiondef('{bug.place}'::regprocedure)")
        table.wait(table.connection.execute(bug.planted_in(table.wait(definition))))
    else:
        monkeypatch.setitem(statements._STATEMENTS, bug.place, bug.planted_in(statement(bug.place)))

    with pytest.raises((AssertionError, PushqError)):
        run_state_machine_as_test(
            TableMachine, settings=settings(HISTORIES, max_examples=FOUND_WITHIN, phases=[Phase.generate])
        )
    print(f"found within {table.histories} histories")


# The plan -----------------------------------------------------------------------------------------------------


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


@pytest.mark.parametrize("is_analysed", [True, False], ids=["analysed", "never analysed"])
async def test_a_claim_finds_its_jobs_by_the_claimable_index_and_reads_nothing_else(
    database_url: str, connection: Connection, is_analysed: bool
) -> None:
    """As the planner is told by pushq, and also left to itself."""
    await connection.execute("alter table pushq.jobs_unfinished set (autovacuum_enabled = off)")
    await connection.execute(
        """
        insert into pushq.jobs (task, queue, priority, run_at, crashes)
        select
            'mail', (array['default', 'bulk'])[1 + n % 2], n % 3, now() + (n % 5 - 3) * interval '1 hour', n % 40 / 38
        from generate_series(1, 4000) as n
        """
    )
    if is_analysed:
        await connection.execute("analyze pushq.jobs_unfinished")
    known = "select count(*) from pg_stats where schemaname = 'pushq' and tablename = 'jobs_unfinished'"
    assert bool(await connection.fetchval(known)) == is_analysed
    explain = "explain (format json) " + statement("claim")
    arguments = ["default", "bulk"], ["mail"], "anna", 1, uuid4(), 10, None, None
    ours = Session(database_url, "test")
    plans = [await ours.fetch(explain, *arguments), await connection.fetch(explain, *arguments)]
    await ours.close()

    for ((plan,),) in plans:
        found = list(nodes(json.loads(plan)[0]["Plan"]))
        indexes = {node["Index Name"] for node in found if node["Node Type"].startswith(("Index", "Bitmap Index"))}
        assert "Seq Scan" not in {node["Node Type"] for node in found if node.get("Relation Name") == "jobs_unfinished"}
        assert {name for name in indexes if name.startswith("jobs")} == {
            "jobs_unfinished_claimable",
            "jobs_unfinished_id_is_unique",
        }


async def looks_of_a_claim(connection: Connection, url: str, queues: Sequence[str], limit: int) -> int:
    """How often it descends into an index."""
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('anna', 'here', 1, '1 hour', now() + interval '1 hour')"
    )
    ours = Session(url, "test")
    explain = "explain (analyze, format json) " + statement("claim")
    ((plan,),) = await ours.fetch(explain, queues, ["mail"], "anna", 1, uuid4(), limit, None, None)
    await ours.close()
    return sum(node["Actual Loops"] for node in nodes(json.loads(plan)[0]["Plan"]) if "Index Name" in node)


async def test_a_claim_looks_at_no_more_priorities_than_it_finds_jobs(
    database_url: str, connection: Connection
) -> None:
    """A producer may insert one of each of 65,536, in every queue."""
    await connection.execute(
        "insert into pushq.jobs (task, queue, priority) select 'mail', queue, priority "
        "from generate_series(-10000, 9999) as priority cross join unnest('{a,b}'::text[]) as queue"
    )

    assert await looks_of_a_claim(connection, database_url, ["a", "b"], 10) < 100
    taken = "select queue, priority from pushq.jobs where status = 'running' order by priority, queue"
    assert [tuple(row) for row in await connection.fetch(taken)] == [
        (queue, priority) for priority in range(-10000, -9995) for queue in "ab"
    ]


async def test_a_claim_looks_at_a_priority_only_in_the_queues_that_have_it(
    database_url: str, connection: Connection
) -> None:
    """Fifty queues with ten priorities of their own each, and nothing due."""
    await connection.execute(
        "insert into pushq.jobs (task, queue, priority, run_at) "
        "select 'mail', 'q' || n / 10, n, now() + interval '1 hour' from generate_series(0, 499) as n"
    )

    assert await looks_of_a_claim(connection, database_url, [f"q{number}" for number in range(50)], 10) < 1200


async def test_no_job_of_a_dead_pool_is_compared_with_all_the_others(database_url: str, connection: Connection) -> None:
    """Ten thousand jobs are ten thousand comparisons, and not their square."""
    await connection.execute(
        "insert into pushq.jobs (task, status, supervisor, pool, token, started_at) "
        "select 'mail', 'running', 'anna', 1, gen_random_uuid(), now() from generate_series(1, 2000)"
    )
    ours = Session(database_url, "test")
    explain = "explain (analyze, format json) " + statement("requeue")
    ((plan,),) = await ours.fetch(explain, ["anna"], 1, True, False)
    await ours.close()

    lists = [node.get("Filter", "") for node in nodes(json.loads(plan)[0]["Plan"]) if "ANY" in node.get("Filter", "")]
    assert not any("token" in condition or "id" in condition for condition in lists), lists
