"""The table itself, beside its model: the statements that are tried, and what is to be seen, in the model's terms.

Nobody waits for hours to pass: all that is in the database is made older instead, and the clock of the event loop, by
which the sweeper goes, is moved on.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from pushq.database.session import Session
from tests.model.table_model import AGE, Counted, TableModel
from tests.support.jobs import Connection
from tests.support.store import Store

T = TypeVar("T")

RETENTION = 1
"""Days."""

_EMPTY = """
delete from pushq.jobs; delete from pushq.supervisors; delete from pushq.queues; delete from pushq.tasks;
delete from pushq.tallies; delete from pushq.tally_log; delete from pushq.labels; delete from pushq.census;
update pushq.census_clock set taken_at = '-infinity', took = '0'
"""

_MAKE_OLDER = """
with jobs as (
    update pushq.jobs
    set run_at = run_at - $1::interval, enqueued_at = enqueued_at - $1, started_at = started_at - $1,
        finished_at = finished_at - $1, finished_on = finished_on - $2::int),
supervisors as (update pushq.supervisors set started_at = started_at - $1, lease_until = lease_until - $1),
queues as (update pushq.queues set served_since = served_since - $1, paused_at = paused_at - $1),
census as (update pushq.census set oldest_due_at = oldest_due_at - $1)
update pushq.census_clock set taken_at = taken_at - $1
"""

_JOBS = """
select *, replace(tableoid::regclass::text, 'pushq.', '') as partition
from pushq.jobs
order by run_at, id
"""

_TALLIES = "select * from pushq.tallies union all select * from pushq.tally_log"

_REST = """
select
    now() as now,
    pushq.utc_today() as today,
    array(select name from pushq.tasks) as tasks,
    array(select day from pushq.days) as days,
    array(select supervisors from pushq.supervisors) as supervisors,
    array(select queues from pushq.queues) as queues,
    array(select census from pushq.census) as census
"""


class AgeingLoop(asyncio.SelectorEventLoop):
    """Its clock can be moved on between two steps."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


@dataclass(frozen=True)
class Seen:
    """All that a model knows of the database, instants as ages, and the ids in the order of run_at."""

    jobs: list[dict[str, object]]
    order: list[UUID]
    supervisors: dict[str, tuple[object, ...]]
    queues: dict[str, tuple[bool, bool]]
    tasks: set[str]
    days: set[date]
    counters: dict[tuple[str, ...], tuple[int, int, int]]
    census: dict[tuple[str, str], Counted]


def foreseen(model: TableModel) -> Seen:
    """What is to be seen if the model is right."""
    unfinished = sorted(model.unfinished.values(), key=lambda row: (row.run_at, row.id))
    return Seen(
        jobs=_in_order(row.columns for row in [*unfinished, *model.finished]),
        order=[row.id for row in unfinished],
        supervisors={
            name: (one.heartbeat, one.lease, one.lease_until.age, set(one.tasks), set(one.queues))
            for name, one in model.supervisors.items()
        },
        queues={name: (queue.is_served, queue.is_paused) for name, queue in model.queues.items()},
        tasks=model.tasks,
        days=model.days,
        counters=_counters(
            ((one.queue, one.task, one.outcome, _span(one.ran), _span(one.waited)), 1, one.ran or 0, one.waited or 0)
            for one in model.tallies
        ),
        census=model.census,
    )


class RealTable:
    """For as many histories as are to be tried. connection: an app's, or an onlooker's."""

    def __init__(self, runner: asyncio.Runner, session: Session, connection: Connection) -> None:
        self._runner = runner
        self.store = Store(session)
        self.connection = connection
        self.today = date.min
        self.histories = 0
        self.happened = Counter[str]()

    def wait(self, statement: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(statement)

    async def empty(self) -> TableModel:
        """Begins a history; its model."""
        self.histories += 1
        await self.connection.execute(_EMPTY)
        (rest,) = await self.connection.fetch(_REST)
        usual = {rest["today"] + timedelta(ahead) for ahead in range(4)}
        for day in set(rest["days"]) - usual:
            await self.connection.execute(
                f"drop table pushq.jobs_{day:%Y_%m_%d}; delete from pushq.days where day = '{day}'"
            )
        # A planted bug may have retired one that is usual.
        await self.connection.execute("update pushq.days set retired_at = null; select pushq.make_days()")
        user = await self.connection.fetchval("select session_user::text")
        return TableModel(today=rest["today"], days=usual, user=user, retention=RETENTION)

    async def age(self, ages: int, *, sweepers_ages: int, days: int = 0) -> None:
        """Makes everything older by ages, and what is finished by as many days of the calendar."""
        await self.connection.execute(_MAKE_OLDER, ages * AGE, days)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, AgeingLoop)
        loop.ahead += sweepers_ages * AGE.total_seconds()

    async def forget_real_time(self) -> None:
        """The census is taken every few seconds; those of this age have not passed."""
        await self.connection.execute(
            "update pushq.census_clock set taken_at = now(), took = '0' "
            "where taken_at between now() - $1::interval / 2 and now()",
            AGE,
        )

    async def look(self, age: int) -> Seen:
        """age: which it is now."""
        jobs = await self.connection.fetch(_JOBS)
        (rest,) = await self.connection.fetch(_REST)
        self.today = rest["today"]

        def age_of(instant: datetime | None) -> int | None:
            return None if instant is None else age + round((instant - rest["now"]) / AGE)

        def columns(row: Any) -> dict[str, object]:
            return {name: age_of(value) if isinstance(value, datetime) else value for name, value in row.items()}

        return Seen(
            jobs=_in_order(map(columns, jobs)),
            order=[row["id"] for row in jobs if row["finished_on"] == date.max],
            supervisors={
                row["name"]: (
                    row["heartbeat"],
                    row["lease"] / AGE,
                    age_of(row["lease_until"]),
                    set(row["tasks"]),
                    set(row["queues"]),
                )
                for row in rest["supervisors"]
            },
            queues={
                row["name"]: (row["served_since"] is not None, row["paused_at"] is not None) for row in rest["queues"]
            },
            tasks=set(rest["tasks"]),
            days=set(rest["days"]),
            counters=_counters(map(_counter, await self.connection.fetch(_TALLIES))),
            census={
                (row["queue"], row["status"]): Counted(row["jobs"], age_of(row["oldest_due_at"]))
                for row in rest["census"]
            },
        )


@contextmanager
def real_table(url: str) -> Iterator[RealTable]:
    with asyncio.Runner(loop_factory=AgeingLoop) as runner:
        session = Session(url, "model")
        connection = runner.run(asyncpg.connect(url, max_cached_statement_lifetime=0))
        try:
            yield RealTable(runner, session, connection)
        finally:
            runner.run(session.close())
            runner.run(connection.close())


def _in_order(jobs: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(jobs, key=lambda job: [str(job[name]) for name in ("id", "finished_on", "attempt", "finished_at")])


# Counters -----------------------------------------------------------------------------------------------------


def _counters(
    counts: Iterable[tuple[tuple[str, ...], int, float, float]],
) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """By labels: jobs, and for how many ages they ran and waited, all together."""
    sums = defaultdict[tuple[str, ...], list[float]](lambda: [0, 0, 0])
    for labels, *amounts in counts:
        sums[labels] = [sum(pair) for pair in zip(sums[labels], amounts, strict=True)]
    return {labels: (round(jobs), round(ran), round(waited)) for labels, (jobs, ran, waited) in sums.items()}


def _counter(row: Any) -> tuple[tuple[str, ...], int, float, float]:
    queue, task, outcome, ran, waited, jobs, run_seconds, wait_seconds = row
    labels = (queue, task, outcome, _bucket(ran, last=16), _bucket(waited, last=17))
    return labels, jobs, run_seconds / AGE.total_seconds(), wait_seconds / AGE.total_seconds()


def _bucket(number: int, *, last: int) -> str:
    return "not measured" if number < 0 else "ages" if number == last else "an instant"


def _span(ages: int | None) -> str:
    return "not measured" if ages is None else "ages" if ages else "an instant"
