"""The table does what its model says: after every step of a random history the two agree in every column.

`make prove` tries the same histories each time, and `make test` the first of them. To try others, and many of them, say
how many and give it the time:

    PUSHQ_TEST_EXAMPLES=5000 .venv/bin/pytest -n 0 --timeout 0 tests/prove/model -k agree

A failure shows the steps that led to it; there, after Hypothesis has made them as few as it can.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import date, timedelta
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
)

from pushq.job import Job, NewJob
from pushq.outcome import Kind, Outcome
from pushq.pool.store import Claimant
from pushq.queue import Queue
from pushq.sweeper import Sweeper
from tests.model.real_table import RETENTION, RealTable, foreseen
from tests.model.table_model import AGE, AGES_A_DAY, LARGEST_WITH_CLAIM, Ending, NewRow, Row, Swept, TableModel
from tests.support.days import make_day
from tests.support.jobs import Connection
from tests.support.store import Store

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
priorities = st.sampled_from((0, 0, 0, -2, -1, 7))
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
        priority=priorities,
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
    ask=2,
    let_time_pass=3,
    let_days_pass=2,
    sweep=3,
)


_CHANGES = {"cancel": 2, "retry": 3, "release": 1, "reprioritize": 1, "reschedule": 1}
_CALLS = {
    "release": "change($1, 'running', 'queued')",
    "reprioritize": "reprioritize($1, $2)",
    "reschedule": "reschedule($1, clock_timestamp())",
}


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
        name, pool, limit = data.draw(supervisors), data.draw(pools), data.draw(st.integers(1, 5))
        if data.draw(st.sampled_from((True, True, True, False))):
            self._claim_as_usual(name, pool, limit=limit)
        else:
            self._claim(usual(name, pool), limit)

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
        took = {job.id for job in jobs}
        assert jobs == sorted(map(claimed, self.model.claim(*_of(claimant), token, limit, took)))
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
        refused = self.table.wait(self.store.finish([outcome(ending) for ending in told]))
        accepted = self.model.finish(told)
        assert {one.job.fence for one in refused} == {(ending.id, ending.token) for ending in told} - accepted
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
        """A supervisor sends a heartbeat, and a pool of it says what it knows and serves; or it says goodbye."""
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
        self.table.wait(self.store.register(claimant, {}))
        self.model.register(claimant.supervisor, claimant.tasks, claimant.queues)

    def change_job(self, data: st.DataObject) -> None:
        function, one = data.draw(weighted(**_CHANGES)), st.sampled_from(self.ids)
        job = data.draw(st.one_of(one, one, one, some_ids))
        self._call(function, job, *([data.draw(priorities)] if function == "reprioritize" else []))

    def change_queue(self, data: st.DataObject) -> None:
        queue = data.draw(queues)
        is_paused = self.model.is_paused(queue)
        self._call(data.draw(weighted(pause=1, resume=3) if is_paused else weighted(pause=3, resume=1)), queue)

    def _call(self, function: str, *arguments: UUID | str | int) -> None:
        call = _CALLS.get(function, f"{function}($1)")
        said = self.table.wait(self.connection.fetchval(f"select pushq.{call}", *arguments))
        assert said == getattr(self.model, function)(*arguments)
        self.note(f"{function}: {said}")

    def ask(self, data: st.DataObject) -> None:
        """What changes nothing."""
        claimant = data.draw(claimants)
        served = claimant.queues, claimant.tasks
        outlook = self.table.wait(self.store.next_due(claimant))
        assert _in_ages(outlook.due_in) == self.model.next_due_in(*served)
        assert outlook.lease_is_live == self.model.is_live(claimant.supervisor)
        survey = self.table.wait(self.store.survey(claimant.supervisor, *served, 2))
        suspects, due_in = self.model.suspects(*served)
        assert survey.suspects == min(suspects, 2)
        assert _in_ages(survey.suspect_due_in) == due_in
        assert set(survey.pools) == self.model.pools_with_jobs(claimant.supervisor)
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
        self.note("a supervisor was declared dead", len(swept.dead))
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
