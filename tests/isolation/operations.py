"""pushq's operations, as their permutations are tried: the program's own statements, and how each explains its answer.

Every operation is on the rows of stage.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import cast
from uuid import UUID

from pushq.database import migrate
from pushq.database.session import Session
from pushq.desk import Desk
from pushq.job import Job, NewJob
from pushq.outcome import Kind, Outcome
from pushq.pool.store import Claimant, Fence
from pushq.queue import Queue
from pushq.sweeper.store import Taken
from tests.isolation.permute import Actor, Operation, Ran, Sessions
from tests.isolation.stage import HELD, ID, OLD_DAY, ONE, TWO, Days, Row, State, Supervisor

KEEP = timedelta(days=7)
TASKS = ("echo", "newcomer")  # what the pools that claim know


def token_of(number: int) -> UUID:
    """What session `number` claims under."""
    return UUID(int=0xC0 + number)


# Producers ------------------------------------------------------------------------------------------------------------


def insert() -> Operation:
    """A job of the session's own, and one whose id every session chooses."""
    return _insert(
        "insert", lambda actor: [NewJob("echo", id=UUID(int=0x100 + actor.number)), NewJob("echo", id=ID["shared"])]
    )


def insert_keyed(name: str, keys: str) -> Operation:
    """Jobs with unique keys: R is r1's; F is f1's, which is finished; the others are nobody's yet."""

    def jobs(actor: Actor) -> list[NewJob]:
        return [NewJob("echo", unique_key=key, id=UUID(int=(actor.number << 16) + ord(key))) for key in keys]

    return _insert(name, jobs)


def _insert(name: str, jobs_of: Callable[[Actor], list[NewJob]]) -> Operation:
    async def perform(actor: Actor) -> list[UUID]:
        return await Queue().insert_many(jobs_of(actor), connection=actor)

    def explain(state: State, ran: Ran) -> Iterator[State]:
        inserted = set()
        for job in jobs_of(ran.actor):
            assert job.id
            rows = [(other, row) for other, row in state.jobs.items() if row.is_unfinished]
            if not any(other == job.id or (job.unique_key and row.key == job.unique_key) for other, row in rows):
                inserted.add(job.id)
                state = state.put(job.id, Row("queued", key=job.unique_key))
        if set(ran.answer) == inserted:
            yield state

    return Operation(name, perform, explain)


def cancel(name: str) -> Operation:
    def explain(state: State, ran: Ran) -> Iterator[State]:
        row = state.jobs.get(ID[name])
        if row and row.is_unfinished:
            if ran.answer == "cancelled":
                cancelled = row._replace(status="cancelled", token=None)
                yield state.put(ID[name], cancelled).tally("cancelled")
        elif ran.answer == (f"already {row.status}" if row else "unknown"):
            yield state

    return Operation(f"cancel_{name}", _calls("cancel", ID[name]), explain)


def retry(name: str) -> Operation:
    def explain(state: State, ran: Ran) -> Iterator[State]:
        answer, following = _retried(state, ID[name])
        if ran.answer == answer:
            yield following

    return Operation(f"retry_{name}", _calls("retry", ID[name]), explain)


def _retried(state: State, job: UUID) -> tuple[str, State]:
    row = state.jobs.get(job)
    if row is None:
        return "unknown", state
    if row.status == "running":
        return "running", state
    if row.status == "queued":
        return "queued", state.put(job, row._replace(failures=0, crashes=0))
    if row.key and any(other.key == row.key and other.is_unfinished for other in state.jobs.values()):
        return "unique_key is taken", state
    return "queued", state.put(job, row._replace(status="queued", failures=0, crashes=0, token=None, is_old=False))


def release_by_hand(name: str) -> Operation:
    async def perform(actor: Actor) -> str:
        (row,) = await actor.fetch("select pushq.change($1, 'running', 'queued') as did", ID[name])
        return str(row["did"])

    def explain(state: State, ran: Ran) -> Iterator[State]:
        row = state.jobs.get(ID[name])
        if ran.answer == _why_not(row, "running"):
            yield state
        elif row and ran.answer == "queued" and row.status == "running":
            yield state.put(ID[name], row._replace(status="queued", token=None))

    return Operation(f"release_{name}_by_hand", perform, explain)


def reprioritize(name: str) -> Operation:
    async def perform(actor: Actor) -> str:
        (row,) = await actor.fetch("select pushq.reprioritize($1, 0) as did", ID[name])
        return str(row["did"])

    def explain(state: State, ran: Ran) -> Iterator[State]:
        if ran.answer == (_why_not(state.jobs.get(ID[name]), "queued") or "reprioritized"):
            yield state

    return Operation(f"reprioritize_{name}", perform, explain)


def _why_not(row: Row | None, expected: str) -> str | None:
    if row is None:
        return "unknown"
    if not row.is_unfinished:
        return f"already {row.status}"
    return None if row.status == expected else f"is {row.status}"


def pause(queue: str) -> Operation:
    def explain(state: State, ran: Ran) -> Iterator[State]:
        if ran.answer == ("already paused" if queue in state.paused else "paused"):
            yield replace(state, paused=state.paused | {queue})

    return Operation(f"pause_{queue}", _calls("pause", queue), explain)


def resume(queue: str) -> Operation:
    def explain(state: State, ran: Ran) -> Iterator[State]:
        if ran.answer == ("resumed" if queue in state.paused else "not paused"):
            yield replace(state, paused=state.paused - {queue})

    return Operation(f"resume_{queue}", _calls("resume", queue), explain)


def _calls(function: str, argument: UUID | str) -> Callable[[Actor], Awaitable[str]]:
    async def perform(actor: Actor) -> str:
        return await Desk(cast("Session", actor)).change(function, argument)

    return perform


# Pools ----------------------------------------------------------------------------------------------------------------


def claim(name: str, supervisor: str, queues: tuple[str, ...], limit: int) -> Operation:
    claimant = Claimant(supervisor, 7, queues, TASKS)

    async def perform(actor: Actor) -> list[Job]:
        return await actor.store.claim(claimant, token_of(actor.number), limit)

    return Operation(name, perform, _explain_claim(claimant, limit, lambda row: row.crashes < 2))


def claim_suspect() -> Operation:
    claimant = Claimant(TWO, 8, ("default", "mail"), TASKS)

    async def perform(actor: Actor) -> list[Job]:
        return await actor.store.claim_suspect(claimant, token_of(actor.number))

    return Operation("claim_suspect", perform, _explain_claim(claimant, 1, lambda row: row.crashes >= 2))


def _explain_claim(
    claimant: Claimant, limit: int, suits: Callable[[Row], bool]
) -> Callable[[State, Ran], Iterator[State]]:
    """It may pass over jobs that somebody else has locked, and such as became due after its begin."""

    def claimable(state: State) -> set[UUID]:
        seat = state.supervisors.get(claimant.supervisor)
        queues = {*claimant.queues} - state.paused if seat and seat.is_live else set()
        queued = [job for job in state.find(status="queued") if suits(state.jobs[job])]
        return {job for job in queued if state.jobs[job].queue in queues and state.jobs[job].task in claimant.tasks}

    def explain(state: State, ran: Ran) -> Iterator[State]:
        there, token = claimable(state), token_of(ran.actor.number)
        claimed = {job.id: job for job in ran.answer}
        enough = min(limit, len(there)) if ran.is_undisturbed else 0
        if not (claimed.keys() <= there and enough <= len(claimed) == len(ran.answer) <= limit):
            return
        for job, taken in claimed.items():
            row = state.jobs[job]
            if (taken.attempt, taken.token, taken.crashes) != (row.attempt + 1, token, row.crashes):
                return
            running = row._replace(
                status="running", attempt=row.attempt + 1, token=token, supervisor=claimant.supervisor
            )
            state = state.put(job, running)
        yield state

    return explain


def take_back(name: str, supervisor: str, token_for: Callable[[Actor], UUID]) -> Operation:
    async def perform(actor: Actor) -> list[Job]:
        return await actor.store.take_back(supervisor, token_for(actor))

    def explain(state: State, ran: Ran) -> Iterator[State]:
        held = state.find(status="running", supervisor=supervisor, token=token_for(ran.actor))
        if {job.id for job in ran.answer} == set(held):
            yield state

    return Operation(name, perform, explain)


def finish(name: str, jobs: str, kind: Kind = Kind.SUCCEEDED, token: UUID = HELD) -> Operation:
    """The outcomes of jobs, given as `r1 r2`, in this order."""
    ids = [ID[job] for job in jobs.split()]

    async def perform(actor: Actor) -> set[Fence]:
        outcomes = [Outcome(held_job(job, token), kind, delay=3600 * (kind is Kind.DETACHED)) for job in ids]
        refused = await actor.store.finish(outcomes)
        return {outcome.job.fence for outcome in outcomes if outcome not in refused}

    def explain(state: State, ran: Ran) -> Iterator[State]:
        held = {job for job in ids if job in state.jobs and state.jobs[job].status == "running"}
        accepted = {job for job in held if state.jobs[job].token == token}
        if ran.answer == {(job, token) for job in accepted}:
            for job in accepted:
                state = _finished(state, job, kind)
            yield state

    return Operation(name, perform, explain)


def held_job(job: UUID, token: UUID = HELD) -> Job:
    return Job(job, "echo", "default", "{}", 1, 0, 0, None, None, None, None, token)


def _finished(state: State, job: UUID, kind: Kind) -> State:
    row = state.jobs[job]
    failures = row.failures + (kind in (Kind.FAILED, Kind.RETRIED))
    if kind in (Kind.SUCCEEDED, Kind.FAILED, Kind.CANCELLED):
        return state.put(job, row._replace(status=kind.value, failures=failures)).tally(kind.value)
    if kind is Kind.DETACHED:
        guest = f"guest:{job}"
        state = state.put(job, row._replace(supervisor=guest))
        return state.seat(guest, Supervisor(0, is_live=True, tasks=frozenset({"echo"})))
    state = state.put(job, row._replace(status="queued", failures=failures, token=None))
    return state if kind is Kind.RELEASED else state.tally("retried")


def finished_with_token() -> Operation:
    jobs = [ID[name] for name in ("r1", "r2", "r3", "f1")]

    async def perform(actor: Actor) -> set[Fence]:
        return await actor.store.finished_with_token([Outcome(held_job(job), Kind.SUCCEEDED) for job in jobs])

    def explain(state: State, ran: Ran) -> Iterator[State]:
        found = {job for job in jobs if state.jobs[job].token == HELD and not state.jobs[job].is_unfinished}
        if ran.answer == {(job, HELD) for job in found}:
            yield state

    return Operation("finished_with_token", perform, explain)


def locked_by_others() -> Operation:
    """Of rows that nobody has locked it names none; of the others it may."""
    jobs = [ID[name] for name in ("r3", "r1", "r2")]

    async def perform(actor: Actor) -> set[UUID]:
        return await actor.store.locked_by_others([Outcome(held_job(job), Kind.SUCCEEDED) for job in jobs])

    def explain(state: State, ran: Ran) -> Iterator[State]:
        if not ran.answer or (ran.answer <= set(jobs) and not ran.is_undisturbed):
            yield state

    return Operation("locked_by_others", perform, explain)


def survey() -> Operation:
    async def perform(actor: Actor) -> list[int]:
        return list((await actor.store.survey(ONE, ["default"], ["echo"], 1)).pools)

    def explain(state: State, ran: Ran) -> Iterator[State]:
        if bool(ran.answer) == bool(state.find(status="running", supervisor=ONE)):
            yield state

    return Operation("survey", perform, explain)


# Supervisors ----------------------------------------------------------------------------------------------------------


def heartbeat(name: str) -> Operation:
    """Beside another it may say that the lease had lapsed when it had not: then the pools look again for nothing."""

    async def perform(actor: Actor) -> bool:
        return await actor.store.heartbeat(name, "here", 1, 3600)

    def explain(state: State, ran: Ran) -> Iterator[State]:
        before = state.supervisors.get(name)
        lapsed = before is None or not before.is_live
        if ran.answer == lapsed or (ran.answer and not ran.is_undisturbed):
            beaten = before or Supervisor(-1, is_live=True, tasks=frozenset())
            yield state.seat(name, beaten._replace(heartbeat=beaten.heartbeat + 1, is_live=True))

    return Operation(f"heartbeat_{name}", perform, explain)


def register(name: str, supervisor: str, tasks: str, queues: str) -> Operation:
    """A supervisor makes known what its pools know and serve."""
    claimant = Claimant(supervisor, 7, tuple(queues.split()), tuple(tasks.split()))

    async def perform(actor: Actor) -> None:
        await actor.store.register(claimant, {})

    def explain(state: State, ran: Ran) -> Iterator[State]:
        assert ran.answer is None
        if seat := state.supervisors.get(supervisor):
            state = state.seat(supervisor, seat._replace(tasks=seat.tasks | {*claimant.tasks}))
        yield state

    return Operation(name, perform, explain)


def goodbye() -> Operation:
    async def perform(actor: Actor) -> None:
        await actor.store.goodbye(ONE)

    def explain(state: State, ran: Ran) -> Iterator[State]:
        assert ran.answer is None
        yield state.unseat(ONE)

    return Operation("goodbye", perform, explain)


# The sweeper ----------------------------------------------------------------------------------------------------------


def declare_dead(name: str, dead: list[tuple[str, int]]) -> Operation:
    """It may pass over whom somebody else has locked."""

    async def perform(actor: Actor) -> list[str]:
        return await actor.store.declare_dead(dead)

    def explain(state: State, ran: Ran) -> Iterator[State]:
        seats = [(who, heartbeat, state.supervisors.get(who)) for who, heartbeat in dead]
        dead_now = {who for who, heartbeat, seat in seats if seat and seat.heartbeat == heartbeat and not seat.is_live}
        if dead_now == set(ran.answer) or (dead_now > set(ran.answer) and not ran.is_undisturbed):
            for who in ran.answer:
                state = state.unseat(who)
            yield state

    return Operation(name, perform, explain)


def requeue(name: str, *, crashed: bool, pool: int | None = None, only_if_dead: bool = False) -> Operation:
    """Takes the jobs of supervisor one away. It may pass over such as somebody else has locked."""

    async def perform(actor: Actor) -> list[Taken]:
        return await actor.store.requeue([ONE], pool=pool, crashed=crashed, only_if_dead=only_if_dead)

    def explain(state: State, ran: Ran) -> Iterator[State]:
        is_spared = only_if_dead and ONE in state.supervisors
        held = () if is_spared else state.find(status="running", supervisor=ONE)
        taken = {one.id: one for one in ran.answer}
        if (
            not taken.keys() <= {*held}
            or len(taken) < len(ran.answer)
            or (ran.is_undisturbed and len(taken) < len(held))
        ):
            return
        for job, one in taken.items():
            row, crashes = state.jobs[job], state.jobs[job].crashes + crashed
            status = "failed" if crashes >= 3 else "queued"
            if (one.status, one.crashes) != (status, crashes):
                return
            state = state.put(job, row._replace(status=status, crashes=crashes, token=None))
            state = state.tally("failed" if status == "failed" else "requeued") if crashed else state
        yield state

    return Operation(name, perform, explain)


def take_census() -> Operation:
    async def perform(actor: Actor) -> int | None:
        return await actor.store.take_census()

    def explain(state: State, ran: Ran) -> Iterator[State]:
        if ran.answer == sum(row.is_unfinished for row in state.jobs.values()) and not state.is_counted:
            yield replace(state, is_counted=True)
        elif ran.answer is None and (state.is_counted or not ran.is_undisturbed):
            yield state

    return Operation("census", perform, explain)


def fold() -> Operation:
    """The counters are the same before and after, however many entries it took."""

    async def perform(actor: Actor) -> int:
        return (await actor.store.fold(20_000)).entries

    def explain(state: State, ran: Ran) -> Iterator[State]:
        assert ran.answer >= 0
        yield state

    return Operation("fold", perform, explain)


def retire() -> Operation:
    """A day in which somebody has a row locked is left for the next time."""

    async def perform(actor: Actor) -> list[date]:
        return [one.day for one in await actor.store.retire_days(KEEP) if not one.trouble]

    def explain(state: State, ran: Ran) -> Iterator[State]:
        if ran.answer == [date.fromisoformat(OLD_DAY)] and state.old_day == "there":
            yield replace(state.drop(state.find(is_old=True)), old_day="retired")
        elif not ran.answer and (state.old_day != "there" or not ran.is_undisturbed):
            yield state

    return Operation("retire", perform, explain)


def purge() -> Operation:
    """A job that somebody has locked is left. Of two sweepers, the second leaves the day to the first."""

    async def perform(actor: Actor) -> int:
        return (await actor.store.purge_day(date.fromisoformat(OLD_DAY), KEEP, 128, 5000)).purged

    def explain(state: State, ran: Ran) -> Iterator[State]:
        old = state.find(is_old=True) if state.old_day == "there" else []
        if ran.answer == len(old):
            yield state.drop(old)
        elif not ran.answer and not ran.is_undisturbed:
            yield state

    return Operation("purge", perform, explain)


def drop() -> Operation:
    """Detaches and drops what is retired: several statements, none of which may stand in a transaction block."""

    async def perform(actor: Actor) -> list[date]:
        retired = [one for one in await actor.store.retired_days() if await actor.store.drop_day(one)]
        return [one.day for one in retired if one.parent == "jobs"]

    def explain(state: State, ran: Ran) -> Iterator[State]:
        if ran.answer and state.old_day != "there":
            yield replace(state, old_day="gone")
        elif not ran.answer and state.old_day != "retired":
            yield state

    return Operation("drop", perform, explain, isolation=None)


def make_days() -> Operation:
    """The second of two at once leaves it to the first."""

    async def perform(actor: Actor) -> list[date]:
        return await actor.store.make_days()

    def explain(state: State, ran: Ran) -> Iterator[State]:
        if len(ran.answer) == 4 - state.days:
            yield replace(state, days=4)
        elif not ran.answer and not ran.is_undisturbed:
            yield state

    return Operation("make_days", perform, explain)


# Migrations -----------------------------------------------------------------------------------------------------------


def migrates(*, applies: bool = False) -> tuple[Operation, ...]:
    """What `pushq migrate` does: it locks, looks what is missing, and goes. applies: the newest, and undoes it."""

    async def lock(actor: Actor) -> None:
        await actor.fetch("select pg_advisory_lock($1)", migrate.LOCK)

    async def check(actor: Actor) -> list[str]:
        return [one.name for one in await migrate._missing(cast("Session", actor), None)]

    async def apply(actor: Actor) -> None:
        await actor.execute_alone(migrate.migrations()[-1].sql)

    async def unlock(actor: Actor) -> None:
        await actor.fetch("select pg_advisory_unlock($1)", migrate.LOCK)

    def changes_nothing(state: State, ran: Ran) -> Iterator[State]:
        if not ran.answer:
            yield state

    return (
        Operation("lock", lock, changes_nothing, isolation=None),
        Operation("apply", apply, changes_nothing, ending="rollback")
        if applies
        else Operation("check", check, changes_nothing, isolation=None),
        Operation("unlock", unlock, changes_nothing, isolation=None),
    )


# All of them ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What a session does. writes and reads: the rows and tables on which its answer depends, or another's on it."""

    operations: tuple[Operation, ...]
    writes: frozenset[str]
    reads: frozenset[str]
    name: str
    days: Days
    is_producers: bool

    def meets(self, other: Part) -> bool:
        return bool(self.writes & (other.writes | other.reads) or other.writes & self.reads)

    def is_tried_with(self, other: Part) -> bool:
        return self.meets(other) or {self.name, other.name} <= NAMED

    def at(self, isolation: str) -> Part:
        return self._with(isolation=isolation)

    def rolled_back(self) -> Part:
        return self._with(ending="rollback")

    def _with(self, **how: str) -> Part:
        """With other transactions, where there are any."""
        operations = [replace(one, **how) if one.isolation else one for one in self.operations]  # type: ignore[arg-type]
        return replace(self, operations=tuple(operations))


def part(
    operation: Operation,
    *more: Operation,
    writes: str = "",
    reads: str = "",
    name: str = "",
    days: Days = Days.WHOLE,
    is_producers: bool = False,
) -> Part:
    touched = frozenset(writes.split()), frozenset(reads.split())
    return Part((operation, *more), *touched, name or operation.name, days, is_producers)


# parent: pushq.jobs itself, for whose lock a day that is detached waits. Who only updates an unfinished row may hold it
# too: from when it first looks up the bounds of the partition. every_day: also which of them takes finished rows.
_RETRIES = "parent every_day"
_CANCELS = "parent every_day tallies"
_OUTCOMES = "parent every_day tallies"
_CLAIMS = "running queues supervisors parent"
_PRODUCERS = [
    part(insert(), writes="new shared", reads="parent", is_producers=True),
    part(insert_keyed("insert_keyed", "RAMC"), writes="new keys", reads="running f1 parent", is_producers=True),
    part(insert_keyed("insert_keyed_reversed", "FCMA"), writes="new keys", reads="f1 parent", is_producers=True),
    part(cancel("r2"), writes="running", reads=_CANCELS, is_producers=True),
    part(cancel("q1"), writes="q1", reads=_CANCELS, is_producers=True),
    part(cancel("f1"), reads=f"f1 {_CANCELS}", is_producers=True),
    part(retry("r2"), writes="running", reads=_RETRIES, is_producers=True),
    part(retry("s1"), writes="s1", reads=_RETRIES, is_producers=True),
    part(retry("f1"), writes="f1 keys new", reads=_RETRIES, is_producers=True),
    part(retry("f0"), writes="f0 new", reads=_RETRIES, is_producers=True),
    part(release_by_hand("r2"), writes="running", reads=_RETRIES, is_producers=True),
    part(reprioritize("q1"), writes="q1", reads=_RETRIES, is_producers=True),
    part(pause("default"), writes="queues", is_producers=True),
    part(pause("mail"), writes="queues", is_producers=True),
    part(resume("default"), writes="queues", is_producers=True),
]
_POOLS = [
    part(claim("claim", TWO, ("default", "mail"), 10), writes="q1 s1 new", reads=_CLAIMS),
    part(claim("claim_two", TWO, ("mail", "default"), 2), writes="q1 new", reads=_CLAIMS),
    part(claim("claim_without_lease", ONE, ("default", "mail"), 10), reads="supervisors parent"),
    part(claim_suspect(), writes="s1", reads=_CLAIMS),
    part(take_back("take_back", ONE, lambda _: HELD), reads="running"),
    part(take_back("take_back_the_other's", TWO, lambda actor: token_of(3 - actor.number)), reads="q1"),
    part(finish("finish", "r1 r2 r3"), writes="running", reads=_OUTCOMES),
    part(finish("finish_retried", "r3 r1 r2", Kind.RETRIED), writes="running", reads=_OUTCOMES),
    part(finish("finish_released", "r1 r2 r3", Kind.RELEASED), writes="running", reads=_RETRIES),
    part(finish("finish_reversed", "r3 r2 r1"), writes="running", reads=_OUTCOMES),
    part(finish("finish_failed", "r2 r1 r3", Kind.FAILED), writes="running", reads=_OUTCOMES),
    part(finish("finish_stale", "q1 r1 f1", token=UUID(int=0x71)), writes="running", reads=_RETRIES),
    part(finished_with_token(), reads="running f1 parent every_day"),
    part(locked_by_others(), writes="running", reads="parent"),
    part(survey(), reads="running parent"),
]
_SUPERVISORS = [
    part(heartbeat(ONE), writes="supervisors"),
    part(register("register", TWO, "echo newcomer stranger", "default mail"), writes="supervisors queues"),
    part(goodbye(), writes="supervisors"),
    part(requeue("charge_pool", crashed=True, pool=1), writes="running", reads=_OUTCOMES),
    part(requeue("release_pool", crashed=False, pool=1), writes="running", reads="parent"),
]
_SWEEPERS = [
    part(declare_dead("declare_dead", [(ONE, 5)]), writes="supervisors"),
    part(
        declare_dead("declare_dead", [(ONE, 5)]),
        requeue("requeue", crashed=True, only_if_dead=True),
        writes="running supervisors",
        reads=_OUTCOMES,
        name="sweep",
    ),
    part(take_census(), writes="census", reads="q1 s1 new running f1"),
    part(fold(), writes="tallies"),
    part(retire(), writes="every_day f0"),
    part(purge(), writes="f0", reads="every_day parent"),
    part(drop(), writes="parent every_day days", days=Days.RETIRED),
    part(make_days(), writes="days", reads="parent", days=Days.LACKING),
]
_MIGRATORS = [part(*migrates(), writes="migrations", name="migrate")]

NAMED = frozenset(
    "insert claim finish finish_failed finish_released cancel_r2 retry_f1 sweep retire pause_default migrate".split()
)
"""Insert, claim, finish, fail, release, cancel, retry, sweep, retention, pause, migrate: these are tried with one
another, whether they meet or not."""
PARTS = {part.name: part for part in (*_PRODUCERS, *_POOLS, *_SUPERVISORS, *_SWEEPERS, *_MIGRATORS)}


def sessions_of(*parts: Part) -> Sessions:
    return [part.operations for part in parts]


def days_of(*parts: Part) -> Days:
    """The days that the parts need when they begin."""
    days = {part.days for part in parts} - {Days.WHOLE}
    return Days.RETIRED_AND_LACKING if len(days) == 2 else next(iter(days), Days.WHOLE)
