"""Where the permutations are played: one database, reset before each, and the state of its rows as a value."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple, Self, cast
from uuid import UUID

import asyncpg

from pushq.database.session import Session
from tests.isolation.permute import (
    Actor,
    Ran,
    Schedule,
    Sessions,
    Tester,
    Violation,
    order_that_explains,
    text_of,
)
from tests.support.jobs import Connection
from tests.support.store import Store
from tests.support.transitions import check_transition

ID = {name: UUID(int=number) for number, name in enumerate("q1 q2 q3 u1 s1 r1 r2 r3 f1 f0 shared".split(), 1)}
"""The jobs by name: q queued, u queued and unknown, s a suspect, r running, f finished (f0 long ago); shared: new."""
HELD = UUID(int=0x70)
"""The token under which supervisor `one`, whose lease has run out, holds r1, r2 and r3."""
ONE, TWO, THREE, FOUR = "one", "two", "three", "four"
"""The supervisors; of them `two` is live."""
OLD_DAY = "2020-01-01"


class Days(StrEnum):
    """What the days are like when a permutation begins."""

    WHOLE = "whole"
    RETIRED = "retired"  # the old one is emptied and waits to be dropped
    LACKING = "lacking"  # the last one has still to be made
    RETIRED_AND_LACKING = "retired and lacking"


class Row(NamedTuple):
    """A job as far as model and table must agree on it."""

    status: str
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    queue: str = "default"
    task: str = "echo"
    key: str | None = None
    token: UUID | None = None
    supervisor: str | None = None
    is_old: bool = False  # on the old day

    @property
    def is_unfinished(self) -> bool:
        return self.status in ("queued", "running")


class Supervisor(NamedTuple):
    heartbeat: int
    is_live: bool
    tasks: frozenset[str]


@dataclass(frozen=True)
class State:
    jobs: Mapping[UUID, Row]
    supervisors: Mapping[str, Supervisor]
    tallies: Mapping[str, int]  # by outcome: how many jobs
    paused: frozenset[str]
    is_counted: bool  # by a census
    days: int  # from today on
    old_day: str  # there, retired or gone

    @property
    def seats(self) -> object:
        return self.supervisors, self.paused, self.is_counted

    def put(self, job: UUID, row: Row) -> State:
        if job in self.jobs:
            check_transition(self.jobs[job].status, row.status)
        return replace(self, jobs={**self.jobs, job: row})

    def drop(self, jobs: Iterable[UUID]) -> State:
        return replace(self, jobs={job: row for job, row in self.jobs.items() if job not in set(jobs)})

    def tally(self, outcome: str) -> State:
        return replace(self, tallies={**self.tallies, outcome: self.tallies.get(outcome, 0) + 1})

    def seat(self, name: str, supervisor: Supervisor) -> State:
        return replace(self, supervisors={**self.supervisors, name: supervisor})

    def unseat(self, name: str) -> State:
        return replace(self, supervisors={other: seen for other, seen in self.supervisors.items() if other != name})

    def find(self, **columns: object) -> list[UUID]:
        """The ids of the rows with these values."""
        wanted = columns.items()
        return [job for job, row in self.jobs.items() if all(getattr(row, name) == value for name, value in wanted)]

    def differences(self, other: State) -> str:
        names = {job: name for name, job in ID.items()}
        mine = {names.get(job, str(job)): row for job, row in self.jobs.items()} | _rest(self)
        theirs = {names.get(job, str(job)): row for job, row in other.jobs.items()} | _rest(other)
        return "\n".join(
            f"    {name}: {mine.get(name)} → {theirs.get(name)}"
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        )


def _rest(state: State) -> dict[str, object]:
    return {name: value for name, value in vars(state).items() if name != "jobs"}


# The rows that every permutation begins with. r3 has already killed two processes: a third crash ends it.
_SETTING = f"""
create schema isolation;
create table isolation.jobs (like pushq.jobs including defaults);
insert into isolation.jobs (id, task, queue, status, attempt, crashes, unique_key) values
    ('{ID["q1"]}', 'echo', 'default', 'queued', 0, 0, null),
    ('{ID["q2"]}', 'echo', 'mail', 'queued', 0, 0, null),
    ('{ID["q3"]}', 'newcomer', 'default', 'queued', 1, 0, null),
    ('{ID["u1"]}', 'stranger', 'default', 'queued', 0, 0, null),
    ('{ID["s1"]}', 'echo', 'default', 'queued', 2, 2, null),
    ('{ID["r1"]}', 'echo', 'default', 'running', 1, 0, 'R'),
    ('{ID["r2"]}', 'echo', 'default', 'running', 1, 0, null),
    ('{ID["r3"]}', 'echo', 'default', 'running', 3, 2, null),
    ('{ID["f1"]}', 'echo', 'default', 'succeeded', 1, 0, 'F'),
    ('{ID["f0"]}', 'echo', 'default', 'failed', 5, 0, null);
update isolation.jobs set run_at = '2020-01-01', enqueued_at = '2020-01-01', apart = pushq.apart(crashes);
update isolation.jobs set supervisor = '{ONE}', pool = 1, token = '{HELD}', started_at = now()
where status = 'running';
update isolation.jobs set supervisor = 'zero', pool = 1, token = gen_random_uuid(), started_at = now(),
    finished_at = now(), finished_on = pushq.current_day()
where status in ('succeeded', 'failed');
update isolation.jobs set finished_on = '{OLD_DAY}' where id = '{ID["f0"]}';

-- The old day is old because its successor is.
create table pushq.jobs_2020_01_02 (like pushq.jobs including defaults including constraints);
alter table pushq.jobs attach partition pushq.jobs_2020_01_02 for values from ('2020-01-02') to ('2020-01-03');
insert into pushq.days (day) values ('2020-01-02');

create function isolation.make_days(wanted text) returns void language plpgsql as $$
declare
    last_day text := to_char(pushq.utc_today() + 3, '"jobs_"YYYY_MM_DD');
    old_is_whole boolean := exists (
        select from pg_inherits
        where inhrelid = to_regclass('pushq.jobs_2020_01_01') and not inhdetachpending);
begin
    if not old_is_whole then
        drop table if exists pushq.jobs_2020_01_01;
        create table pushq.jobs_2020_01_01 (like pushq.jobs including defaults including constraints);
        alter table pushq.jobs attach partition pushq.jobs_2020_01_01 for values from ('{OLD_DAY}') to ('2020-01-02');
    end if;
    insert into pushq.days as days (day, retired_at)
    values ('{OLD_DAY}', case when wanted like '%retired%' then now() end)
    on conflict (day) do update set retired_at = excluded.retired_at;
    if wanted not like '%lacking%' then
        perform pushq.make_days() where (select count(*) from pushq.days where day >= pushq.utc_today()) < 4;
    elsif to_regclass('pushq.' || last_day) is not null then
        execute format('alter table pushq.jobs detach partition pushq.%I', last_day);
        execute format('drop table pushq.%I', last_day);
        delete from pushq.days where day = pushq.utc_today() + 3;
    end if;
end
$$;

-- seats: also who runs jobs, and what is served and paused.
create function isolation.reset(wanted_days text, seats boolean) returns void language plpgsql as $$
begin
    delete from pushq.jobs;
    perform isolation.make_days(wanted_days);
    insert into pushq.jobs select * from isolation.jobs
    where wanted_days not like '%retired%' or finished_on > '{OLD_DAY}';
    delete from pushq.purges;
    delete from pushq.tallies;
    insert into pushq.tallies values ('default', 'echo', 'succeeded', 1, 1, 3, 1, 1);
    delete from pushq.tally_log;
    insert into pushq.tally_log values
        ('default', 'echo', 'succeeded', 1, 1, 2, 1, 1), ('default', 'echo', 'failed', 1, 1, 2, 1, 1);
    if not seats then
        return;
    end if;
    delete from pushq.supervisors;
    insert into pushq.supervisors (name, host, pid, heartbeat, lease, lease_until, tasks) values
        ('{ONE}', 'here', 1, 5, '1 minute', now() - interval '1 hour', '{{echo}}'),
        ('{TWO}', 'here', 2, 1, '1 hour', now() + interval '1 hour', '{{echo}}'),
        ('{THREE}', 'here', 3, 1, '1 minute', now() - interval '1 hour', '{{echo}}'),
        ('{FOUR}', 'here', 4, 1, '1 minute', now() - interval '1 hour', '{{echo}}');
    delete from pushq.queues;
    insert into pushq.queues (name, served_since) values ('default', now());
    -- With a rule for any queue, jobs without a rule are purged from days that retention has not emptied yet.
    insert into pushq.queues (name, keep) values ('brief', '1 minute');
    delete from pushq.tasks;
    insert into pushq.tasks (name) values ('echo');
    delete from pushq.labels;
    insert into pushq.labels (queue, task) values ('default', 'echo');
    delete from pushq.census;
    update pushq.census_clock set taken_at = '-infinity', took = '0';
end
$$;
"""

_LOOK = f"""
select json_build_object(
    'jobs', (
        select json_agg(json_build_array(
            id, status, attempt, failures, crashes, queue, task, unique_key, token, supervisor,
            finished_on = '{OLD_DAY}'))
        from pushq.jobs),
    'supervisors', (
        select json_agg(json_build_array(name, heartbeat, lease_until > now(), tasks)) from pushq.supervisors),
    'tallies', (
        select json_object_agg(outcome, jobs)
        from (
            select outcome, sum(jobs) as jobs
            from (select * from pushq.tallies union all select * from pushq.tally_log) as entries
            group by outcome
        ) as counters),
    'paused', (select json_agg(name) from pushq.queues where paused_at is not null),
    'is_counted', (select taken_at > '-infinity' from pushq.census_clock),
    'days', (select count(*) from pushq.days where day >= pushq.utc_today()),
    'old_day', coalesce(
        (select case when retired_at is null then 'there' else 'retired' end from pushq.days where day = '{OLD_DAY}'),
        'gone'))
"""


def _problem(before: State, after: State, ran: Sequence[Ran], may_fail: Callable[[Ran], bool]) -> str | None:
    for one in ran:
        if one.error and (one.is_undisturbed or not may_fail(one)):
            return f"{one.operation.name} ended with {type(one.error).__name__}"
    return None if order_that_explains(before, after, ran) is not None else "no order of the operations explains this"


def _report(problem: str, text: str, before: State, after: State, ran: Sequence[Ran]) -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return "\n".join(
        (
            problem,
            *(f"    {one}" for one in ran),
            before.differences(after),
            f"Play it alone: PUSHQ_TEST_SCHEDULE='{text}' pytest -n0 '{test}'",
        )
    )


class Stage:
    def __init__(self, onlooker: Connection, actors: Sequence[Actor]) -> None:
        self.onlooker = onlooker
        self.actors = actors
        self.tester = Tester(onlooker, actors)
        self._beginnings: dict[Days, State] = {}
        self._last: State | None = None
        self._resets = 0

    @classmethod
    @asynccontextmanager
    async def set_up(cls, url: str, actors: int = 3) -> AsyncIterator[Self]:
        """On a database with pushq's schema. The sessions are as pushq's own are, and find deadlocks in 100 ms."""
        settings = Session(url, "permutation").settings | {"deadlock_timeout": "100ms"}
        async with AsyncExitStack() as stack:

            async def connect(**how: str) -> Connection:
                connection = await asyncpg.connect(url, server_settings=how, max_cached_statement_lifetime=0)
                stack.push_async_callback(connection.close, timeout=5)
                return connection

            onlooker = await connect(**{"pushq.notify": "off"})
            await onlooker.execute(_SETTING)
            # Somebody is idle: what makes a job claimable rings.
            await Store(cast("Session", Actor(0, onlooker))).open_gate(["default", "mail"], 3_600_000)
            yield cls(onlooker, [Actor(number, await connect(**settings)) for number in range(1, actors + 1)])

    async def try_every(
        self,
        sessions: Sessions,
        schedules: Iterable[Schedule],
        *,
        days: Days = Days.WHOLE,
        may_fail: Callable[[Ran], bool] = lambda _: False,
    ) -> list[list[Ran]]:
        """Plays the schedules, each from the same rows, and raises a Violation after the first that is not right.

        may_fail: whether the error in which an operation ended was to be expected. None is, if nobody disturbed it.
        """
        played = []
        for schedule in schedules:
            before = await self.reset(days)
            ran = await self.tester.run(sessions, schedule)
            self._last = after = await self.look()
            if problem := _problem(before, after, ran, may_fail):
                raise Violation(_report(problem, text_of(sessions, schedule), before, after, ran))
            played.append(ran)
        return played

    async def reset(self, days: Days = Days.WHOLE) -> State:
        self._resets += 1
        if self._resets % 200 == 0:  # rather than leave it to autovacuum, which comes once a minute
            await self.onlooker.execute(
                "vacuum (truncate) pushq.jobs, pushq.tallies, pushq.tally_log, pushq.supervisors"
            )
        before, last, self._last = self._beginnings.get(days), self._last, None
        seats_are_sound = before and last and before.seats == last.seats
        await self.onlooker.execute("select isolation.reset($1, $2)", days, not seats_are_sound)
        if before is None:
            before = self._beginnings[days] = await self.look()
        return before

    async def look(self) -> State:
        seen = json.loads(await self.onlooker.fetchval(_LOOK))
        jobs = [(UUID(job), Row(*columns)) for job, *columns in seen["jobs"] or ()]
        if len(jobs) > len(dict(jobs)):
            raise Violation(f"a job is in two places: {jobs}")
        return State(
            jobs={job: row._replace(token=row.token and UUID(str(row.token))) for job, row in jobs},
            supervisors={
                name: Supervisor(heartbeat, is_live, frozenset(tasks))
                for name, heartbeat, is_live, tasks in seen["supervisors"] or ()
            },
            tallies=seen["tallies"],
            paused=frozenset(seen["paused"] or ()),
            is_counted=seen["is_counted"],
            days=seen["days"],
            old_day=seen["old_day"],
        )
