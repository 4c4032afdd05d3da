"""The table as plain values: what each of pushq's operations does to the jobs, and nothing of how it does it.

This is the specification against which tests/model/test_table_model.py holds the SQL, step by step. A method has the
name of what it describes and returns what that returns. What a statement must not do is not said here: it does only
what is said.

Time. Steps take milliseconds; hours pass only when somebody makes them pass, by whole ages. So an instant is the age
in which it was written and the step that wrote it, and of two instants the age decides which is earlier, then the
step. There are two clocks, the database's and the sweeper's own: the first may be set, also back, the second only
goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from pushq.job import Status
from pushq.outcome import Kind
from tests.support.transitions import check_transition

AGE = timedelta(hours=3)
"""The unit of time: longer than the last bounds of the histograms."""
AGES_A_DAY = 8
MOST_CRASHES = 3
LARGEST_WITH_CLAIM = 8192
"""Bytes of a payload that travels with its claim."""

FINAL = frozenset({Kind.SUCCEEDED, Kind.FAILED, Kind.CANCELLED})
COUNTED = frozenset({Kind.RETRIED, Kind.SNOOZED})
"""Of the outcomes after which a job goes on, those that the counters call retried."""


class Moment(NamedTuple):
    age: int
    step: int

    def later(self, ages: int) -> Moment:
        return Moment(self.age + ages, self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRow:
    """What a producer inserts. due_in: ages from now; None, as an id of None, takes the table's default."""

    task: str
    payload: str
    queue: str
    priority: int
    id: UUID | None = None
    due_in: int | None = None
    max_attempts: int | None = None
    timeout: timedelta | None = None
    unique_key: str | None = None
    tenant_id: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A job: its row in pushq.jobs, column by column."""

    id: UUID
    task: str
    payload: str
    queue: str
    priority: int
    run_at: Moment
    max_attempts: int | None
    timeout: timedelta | None
    unique_key: str | None
    tenant_id: str | None
    correlation_id: str | None
    submitted_by: str
    enqueued_at: Moment
    status: Status = Status.QUEUED
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    payload_is_too_long: bool | None = None
    waiters: list[str] | None = None
    progress: str | None = None
    webhook_url: str | None = None
    traceparent: str | None = None
    needs: str | None = None
    limit_key: str | None = None
    affinity: str | None = None
    lane: str | None = None
    share: str | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None
    supervisor: str | None = None
    pool: int | None = None
    token: UUID | None = None
    error: str | None = None
    traceback: str | None = None
    result: str | None = None
    finished_on: date = date.max

    @property
    def columns(self) -> dict[str, object]:
        """What is to be seen in the table: of instants the age, and the partition."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        partition = "jobs_unfinished" if self.finished_on == date.max else f"jobs_{self.finished_on:%Y_%m_%d}"
        ages = {name: value.age for name, value in values.items() if isinstance(value, Moment)}
        apart = "solo" if partition == "jobs_unfinished" and self.crashes >= MOST_CRASHES - 1 else None
        return values | ages | {"partition": partition, "apart": apart}


@dataclass(slots=True)
class Supervisor:
    lease: int
    lease_until: Moment
    heartbeat: int = 0
    tasks: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()


@dataclass(slots=True)
class Queue:
    is_served: bool = False
    is_paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended, as its pool reports it: `ran` ages long, `ago` ages ago, to go on after `delay` ages."""

    id: UUID
    token: UUID
    kind: Kind
    delay: int = 0
    error: str | None = None
    traceback: str | None = None
    result: str | None = None
    ran: int = 0
    ago: int = 0


class Tally(NamedTuple):
    """One count of one counter. ran and waited in ages; None: that was not measured."""

    queue: str
    task: str
    outcome: str
    ran: int | None = None
    waited: int | None = None


class Taken(NamedTuple):
    """A job that was taken away from its pool."""

    id: UUID
    queue: str
    task: str
    status: Status
    crashes: int


class Swept(NamedTuple):
    dead: frozenset[str]
    requeued: int
    failed: int
    made: frozenset[date]
    retired: frozenset[date]


class Counted(NamedTuple):
    """An entry of the census."""

    jobs: int
    oldest_due_at: int | None


class TableModel:
    """The jobs and all that decides about them. retention in days."""

    def __init__(self, *, today: date, days: Collection[date], user: str, retention: int) -> None:
        self.now = Moment(0, 0)
        self.today = today
        self.days = set(days)
        self.unfinished: dict[UUID, Row] = {}
        self.finished: list[Row] = []
        self.supervisors: dict[str, Supervisor] = {}
        self.queues: dict[str, Queue] = {}
        self.tasks: set[str] = set()
        self.tallies: list[Tally] = []
        self.labels = set[tuple[str, str]]()
        self.census: dict[tuple[str, str], Counted] = {}
        self._user = user
        self._retention = timedelta(days=retention)
        self._sweepers_clock = 0
        self._sighted: dict[str, tuple[int, int]] = {}  # a supervisor's heartbeat, and since when it stands there
        self._declared_dead = set[str]()
        self._days_were_seen_to_at: int | None = None
        self._census_taken_at: int | None = None

    # Time -----------------------------------------------------------------------------------------------------

    def begin_step(self, today: date) -> None:
        self.now = Moment(self.now.age, self.now.step + 1)
        self.today = today

    def let_pass(self, ages: int) -> None:
        self.set_clock(ages)
        self._sweepers_clock += ages

    def set_clock(self, ages: int) -> None:
        self.now = self.now.later(ages)

    def let_days_pass(self, days: int) -> list[date]:
        """The calendar stays where it is, and what is finished moves back, to days of which some have to be made."""
        self.let_pass(days * AGES_A_DAY)
        self.finished = [replace(row, finished_on=row.finished_on - timedelta(days)) for row in self.finished]
        first = min((row.finished_on for row in self.finished), default=self.today)
        span = [first + timedelta(days) for days in range((self.today - first).days)]
        missing = [day for day in span if day not in self.days]
        self.days.update(missing)
        return missing

    # Producers ------------------------------------------------------------------------------------------------

    def insert(self, *rows: NewRow) -> list[UUID]:
        """The ids of those that were inserted: one whose id or key an unfinished job has is left out."""
        inserted = []
        for row in rows:
            if not self.is_taken(row):
                assert row.id is not None
                self.unfinished[row.id] = self._inserted(row, row.id)
                inserted.append(row.id)
        return inserted

    def is_taken(self, row: NewRow) -> bool:
        return row.id in self.unfinished or self._has_key(row.tenant_id, row.unique_key)

    def _has_key(self, tenant_id: str | None, unique_key: str | None) -> bool:
        keys = {(row.tenant_id, row.unique_key) for row in self.unfinished.values()}
        return unique_key is not None and (tenant_id, unique_key) in keys

    def _inserted(self, row: NewRow, job_id: UUID) -> Row:
        return Row(
            id=job_id,
            task=row.task,
            payload=row.payload,
            queue=row.queue,
            priority=row.priority,
            run_at=self.now.later(row.due_in or 0),
            max_attempts=row.max_attempts,
            timeout=row.timeout,
            unique_key=row.unique_key,
            tenant_id=row.tenant_id,
            correlation_id=row.correlation_id,
            submitted_by=self._user,
            enqueued_at=self.now,
        )

    # Supervisors ----------------------------------------------------------------------------------------------

    def heartbeat(self, name: str, lease: int) -> bool:
        """Whether the lease had run out."""
        until = self.now.later(lease)
        if name not in self.supervisors:
            self.supervisors[name] = Supervisor(lease, until)
            return True
        supervisor = self.supervisors[name]
        has_lapsed = supervisor.lease_until < self.now
        supervisor.heartbeat += 1
        supervisor.lease, supervisor.lease_until = lease, until
        return has_lapsed

    def register(self, name: str, tasks: Collection[str], queues: Collection[str]) -> None:
        self.tasks |= set(tasks)
        for queue in queues:
            self.queues.setdefault(queue, Queue()).is_served = True
        if name in self.supervisors:
            self.supervisors[name].tasks |= set(tasks)
            self.supervisors[name].queues |= set(queues)

    def serves(self, queues: Collection[str], tasks: Collection[str]) -> bool:
        """Whether pools have registered for all of these."""
        return self.tasks.issuperset(tasks) and all(self._label(queue) == queue for queue in queues)

    def goodbye(self, name: str) -> None:
        self.supervisors.pop(name, None)

    def is_live(self, name: str) -> bool:
        return name in self.supervisors and self.supervisors[name].lease_until > self.now

    # Claims ---------------------------------------------------------------------------------------------------

    def claim(
        self,
        supervisor: str,
        pool: int,
        queues: Sequence[str],
        tasks: Collection[str],
        token: UUID,
        limit: int,
        took: Collection[UUID],
    ) -> list[Row]:
        """The most urgent that are due: by priority, by the order of the queues, and by when they were due.

        took: what the table has chosen, which decides where the model leaves a choice.
        """
        if not self.is_live(supervisor):
            return []
        due = [row for row in self._claimable(queues, tasks) if row.run_at <= self.now]
        due.sort(key=lambda row: (row.priority, queues.index(row.queue), row.run_at, row.id))
        taken = list[Row]()
        for (priority, _), in_line in groupby(due, key=lambda row: (row.priority, row.queue)):
            rows, room = list(in_line), limit - len(taken)
            taken += _by_shelves(rows)[:room] if priority else self._in_turn(rows, took, room)
        return [self._taken_by(supervisor, pool, token, row) for row in taken]

    def _in_turn(self, rows: list[Row], took: Collection[UUID], room: int) -> list[Row]:
        """Jobs of priority 0 in a queue. Between tasks a hundredth of the time for which one is due does not count."""
        chosen, left = [row for row in rows if row.id in took], [row for row in rows if row.id not in took]
        assert len(chosen) == min(len(rows), room)
        assert not chosen or chosen[0] == rows[0]
        for later in chosen:
            for row in left:
                waited = self.now.age - row.run_at.age
                assert later.run_at.age - row.run_at.age <= waited / 100
                assert later.task != row.task or (later.run_at, later.id) < (row.run_at, row.id)
        return chosen

    def claim_suspect(
        self, supervisor: str, pool: int, queues: Sequence[str], tasks: Collection[str], token: UUID
    ) -> list[Row]:
        """The most urgent of those that have killed two processes."""
        if not self.is_live(supervisor):
            return []
        due = sorted(self._due_suspects(queues, tasks), key=lambda row: (row.priority, row.run_at, row.id))
        return [self._taken_by(supervisor, pool, token, row) for row in due[:1]]

    def take_back(self, supervisor: str, token: UUID) -> list[Row]:
        return [row for row in self._running_under([supervisor]) if row.token == token]

    def payload(self, job_id: UUID, token: UUID) -> str | None:
        row = self.unfinished.get(job_id)
        return row.payload if row and row.token == token else None

    def next_due_in(self, queues: Collection[str], tasks: Collection[str]) -> int | None:
        """In how many ages the next job is due."""
        first = min((row.run_at for row in self._claimable(queues, tasks)), default=None)
        return None if first is None else first.age - self.now.age

    def suspects(self, queues: Collection[str], tasks: Collection[str]) -> tuple[int, int | None]:
        """How many are due, and in how many ages the next one is."""
        due = self._due_suspects(queues, tasks)
        later = [row.run_at.age for row in self._suspects(queues, tasks) if row not in due]
        return len(due), min(later) - self.now.age if later else None

    def pools_with_jobs(self, supervisor: str) -> set[int | None]:
        return {row.pool for row in self._running_under([supervisor])}

    def is_paused(self, queue: str) -> bool:
        return queue in self.queues and self.queues[queue].is_paused

    def _claimable(self, queues: Collection[str], tasks: Collection[str]) -> list[Row]:
        return [row for row in self._waiting(queues, tasks) if row.crashes < MOST_CRASHES - 1]

    def _due_suspects(self, queues: Collection[str], tasks: Collection[str]) -> list[Row]:
        return [row for row in self._suspects(queues, tasks) if row.run_at <= self.now]

    def _suspects(self, queues: Collection[str], tasks: Collection[str]) -> list[Row]:
        return [row for row in self._waiting(queues, tasks) if row.crashes >= MOST_CRASHES - 1]

    def _waiting(self, queues: Collection[str], tasks: Collection[str]) -> list[Row]:
        """What is queued for these, where claims are not paused."""
        return [
            row
            for row in self.unfinished.values()
            if row.status == Status.QUEUED and row.queue in queues and row.task in tasks
            if not self.is_paused(row.queue)
        ]

    @property
    def running(self) -> list[Row]:
        return [row for row in self.unfinished.values() if row.status == Status.RUNNING]

    def _running_under(self, supervisors: Collection[str]) -> list[Row]:
        return [row for row in self.running if row.supervisor in supervisors]

    def _taken_by(self, supervisor: str, pool: int, token: UUID, row: Row) -> Row:
        return self._write(
            replace(
                row,
                status=Status.RUNNING,
                attempt=row.attempt + 1,
                supervisor=supervisor,
                pool=pool,
                token=token,
                started_at=self.now,
            )
        )

    def _write(self, row: Row) -> Row:
        if before := self.unfinished.get(row.id):
            check_transition(before.status, row.status)
        self.unfinished[row.id] = row
        return row

    # Outcomes -------------------------------------------------------------------------------------------------

    def finish(self, endings: Sequence[Ending]) -> set[tuple[UUID, UUID]]:
        """The claims whose endings were accepted: those under which a job is held."""
        held = [
            (row, ending) for ending in endings if (row := self.unfinished.get(ending.id)) and row.token == ending.token
        ]
        for row, ending in held:
            if ending.kind in FINAL:
                self._finish(row, ending)
            else:
                self._go_on(row, ending)
        return {(ending.id, ending.token) for _, ending in held}

    def finished_with_token(self, endings: Sequence[Ending]) -> set[tuple[UUID, UUID]]:
        done = {(row.id, row.token) for row in self.finished}
        return {(ending.id, ending.token) for ending in endings} & done

    def _finish(self, row: Row, ending: Ending) -> None:
        assert row.started_at is not None
        began = max(self.now.later(-ending.ago - ending.ran), row.started_at)
        ended = began.later(ending.ran)
        self._measure(row, ending.kind, began, ended)
        self._end(
            row,
            Status(ending.kind),
            failures=row.failures + (ending.kind == Kind.FAILED),
            started_at=began,
            finished_at=ended,
            error=ending.error,
            traceback=ending.traceback,
            result=ending.result,
        )

    def _go_on(self, row: Row, ending: Ending) -> None:
        if ending.kind in COUNTED:
            self._count(row, "retried")
        self._write(
            replace(
                row,
                status=Status.QUEUED,
                token=None,
                run_at=row.run_at if ending.kind == Kind.RELEASED else self.now.later(ending.delay),
                failures=row.failures + (ending.kind == Kind.RETRIED),
                error=ending.error or row.error,
                traceback=ending.traceback if ending.error else row.traceback,
            )
        )

    def requeue(self, supervisors: Collection[str], *, pool: int | None = None, crashed: bool) -> list[Taken]:
        """Takes running jobs away. A crash is charged to each, and the third ends it."""
        held = [row for row in self._running_under(supervisors) if pool is None or row.pool == pool]
        return [self._crashed(row) if crashed else self._released(row) for row in held]

    def _released(self, row: Row) -> Taken:
        self._write(replace(row, status=Status.QUEUED, token=None))
        return Taken(row.id, row.queue, row.task, Status.QUEUED, row.crashes)

    def _crashed(self, row: Row) -> Taken:
        assert row.started_at is not None
        crashes = row.crashes + 1
        error = f"ProcessDied: the process that ran the job died (crash {crashes} of {MOST_CRASHES})"
        if crashes >= MOST_CRASHES:
            ended = max(self.now, row.started_at)  # the clock may have been set back
            self._measure(row, "failed", row.started_at, ended)
            columns = {"crashes": crashes, "finished_at": ended, "token": None, "error": error, "traceback": None}
            self._end(row, Status.FAILED, **columns)
            return Taken(row.id, row.queue, row.task, Status.FAILED, crashes)
        self._count(row, "requeued")
        self._write(replace(row, status=Status.QUEUED, token=None, crashes=crashes, error=error, traceback=None))
        return Taken(row.id, row.queue, row.task, Status.QUEUED, crashes)

    def _end(self, row: Row, status: Status, **columns: object) -> None:
        del self.unfinished[row.id]
        check_transition(row.status, status)
        day = max(day for day in self.days if day <= self.today)
        ended = replace(row, status=status, finished_on=day)
        self.finished.append(replace(ended, **columns))  # type: ignore[arg-type]

    def _measure(self, row: Row, outcome: str, began: Moment, ended: Moment) -> None:
        due = max(row.run_at, row.enqueued_at)
        self._count(row, outcome, ran=ended.age - began.age, waited=max(began.age - due.age, 0))

    def _count(self, row: Row, outcome: str, *, ran: int | None = None, waited: int | None = None) -> None:
        """A pair of queue and task has labels from its first outcome; to be cancelled by hand is none."""
        self.labels.add((row.queue, row.task))
        self.tallies.append(Tally(row.queue, row.task, outcome, ran, waited))

    def _label(self, queue: str) -> str:
        return queue if queue in self.queues and self.queues[queue].is_served else "_other"

    # By hand --------------------------------------------------------------------------------------------------

    def cancel(self, job_id: UUID) -> str:
        if row := self.unfinished.get(job_id):
            queue, task = (row.queue, row.task) if (row.queue, row.task) in self.labels else ("_other", "_other")
            self.tallies.append(Tally(queue, task, "cancelled", None, None))
            ended_at = max(self.now, row.started_at or self.now)  # the clock may have been set back
            self._end(row, Status.CANCELLED, finished_at=ended_at, token=None, result=None)
            return "cancelled"
        last = self._last_finished(job_id)
        return f"already {last.status}" if last else "unknown"

    def retry(self, job_id: UUID) -> str:
        if row := self.unfinished.get(job_id):
            if row.status == Status.RUNNING:
                return "running"
            self._write(replace(row, run_at=min(row.run_at, self.now), failures=0, crashes=0))
            return "queued"
        last = self._last_finished(job_id)
        if last is None:
            return "unknown"
        if self._has_key(last.tenant_id, last.unique_key):
            return "unique_key is taken"
        self.finished.remove(last)
        check_transition(last.status, Status.QUEUED)
        self._write(
            replace(
                last,
                status=Status.QUEUED,
                run_at=self.now,
                failures=0,
                crashes=0,
                finished_at=None,
                pool=None,
                token=None,
                result=None,
                finished_on=date.max,
            )
        )
        return "queued"

    def release(self, job_id: UUID) -> str:
        if why_not := self._why_not(job_id, Status.RUNNING):
            return why_not
        self._released(self.unfinished[job_id])
        return "queued"

    def reprioritize(self, job_id: UUID, priority: int) -> str:
        if why_not := self._why_not(job_id, Status.QUEUED):
            return why_not
        self._write(replace(self.unfinished[job_id], priority=priority))
        return "reprioritized"

    def reschedule(self, job_id: UUID) -> str:
        """To now."""
        if why_not := self._why_not(job_id, Status.QUEUED):
            return why_not
        self._write(replace(self.unfinished[job_id], run_at=self.now))
        return "rescheduled"

    def _why_not(self, job_id: UUID, expected: Status) -> str | None:
        if row := self.unfinished.get(job_id):
            return None if row.status == expected else f"is {row.status}"
        last = self._last_finished(job_id)
        return f"already {last.status}" if last else "unknown"

    def pause(self, queue: str) -> str:
        known = self.queues.setdefault(queue, Queue())
        was_paused, known.is_paused = known.is_paused, True
        return "already paused" if was_paused else "paused"

    def resume(self, queue: str) -> str:
        if not self.is_paused(queue):
            return "not paused"
        self.queues[queue].is_paused = False
        return "resumed"

    def _last_finished(self, job_id: UUID) -> Row | None:
        """The one that was finished last, of those that had the id one after another."""
        return max(
            (row for row in self.finished if row.id == job_id),
            key=lambda row: (row.finished_on, row.finished_at),
            default=None,
        )

    # The sweeper ----------------------------------------------------------------------------------------------

    def sweep(self) -> Swept:
        """The dead are charged. Who said goodbye, and has left jobs behind, is not."""
        dead = self._find_dead()
        self._declared_dead = {name for name in self._declared_dead if self._is_without_row(name)}
        self._declared_dead |= {name for name in dead if self.supervisors.pop(name, None)}
        gone = dead - self._declared_dead
        dead = self._declared_dead | gone
        taken = [*self.requeue(self._declared_dead, crashed=True), *self.requeue(gone, crashed=False)]
        made, retired = self._care_for_days()
        self._take_census()
        failed = sum(job.status == Status.FAILED for job in taken)
        return Swept(frozenset(dead), len(taken) - failed, failed, frozenset(made), frozenset(retired))

    def _find_dead(self) -> set[str]:
        """Whose lease does not hold, and whose counter has stood still for a lease by the sweeper's own clock.

        Who holds jobs and has no row is dead when it is seen so for the second time.
        """
        now = self._sweepers_clock
        before, self._sighted = self._sighted, {}
        dead = set()
        for name, heartbeat, is_expired, lease in self._sightings():
            stood_at, since = before.get(name, (None, now))
            has_stood = stood_at == heartbeat
            self._sighted[name] = (heartbeat, since if has_stood else now)
            if has_stood and is_expired and now - since >= lease:
                dead.add(name)
        return dead

    def _is_without_row(self, name: str) -> bool:
        return any(seen == name and heartbeat < 0 for seen, heartbeat, _, _ in self._sightings())

    def _sightings(self) -> list[tuple[str, int, bool, int]]:
        """(name, heartbeat, whether its lease has run out, lease)

        A lease that ends further ahead than it is long was given before the clock was set back: it has run out, too.
        """
        seen = [
            (name, one.heartbeat, not self.now <= one.lease_until <= self.now.later(one.lease), one.lease)
            for name, one in self.supervisors.items()
        ]
        holders = {row.supervisor for row in self.running}
        return seen + [(name, -1, True, 0) for name in holders if name and name not in self.supervisors]

    def _care_for_days(self) -> tuple[set[date], set[date]]:
        """Days that were made, and days that were dropped since all in them is past retention; every few minutes."""
        if self._days_were_seen_to_at == self._sweepers_clock:
            return set(), set()
        made = {self.today + timedelta(ahead) for ahead in range(4)} - self.days
        self.days |= made
        retired = {day for day in self.days if any(day < newer <= self.today - self._retention for newer in self.days)}
        self.days -= retired
        self.finished = [row for row in self.finished if row.finished_on not in retired]
        # One that has retired something looks again the next time.
        self._days_were_seen_to_at = None if retired else self._sweepers_clock
        return made, retired

    def _take_census(self) -> None:
        if self._census_taken_at is not None and self._census_taken_at >= self.now.age:
            return
        self._census_taken_at = self.now.age
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.unfinished.values():
            groups.setdefault((self._label(row.queue), row.status), []).append(row)
        self.census = {group: Counted(len(rows), self._oldest_due(rows)) for group, rows in groups.items()}

    def _oldest_due(self, rows: Iterable[Row]) -> int | None:
        due = [row for row in rows if row.status == Status.QUEUED and row.run_at <= self.now]
        return min((max(row.run_at, row.enqueued_at).age for row in due), default=None)


def _by_shelves(rows: list[Row]) -> list[Row]:
    """Jobs of one queue and one priority that is not 0: of the tasks the one whose first job is due for longest has its
    turn first. What was for later when it was inserted has a turn of its own.
    """
    shelves: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        shelves.setdefault((row.task, row.run_at > row.enqueued_at), []).append(row)
    return [row for shelf in shelves.values() for row in shelf]
