"""Lanes as a small model, beside the gate's: every interleaving is searched for a freed unit that nobody takes.

Theory of operation. A state is a tuple: jobs, pools, what is free, transactions under way. A step is what PostgreSQL or
a pool does at one instant. A claim is three: the pool counts its room, the database takes jobs, the pool hears which.
An end is three: the handler is over, the outcome is committed and perhaps the next of the lane taken, the pool hears of
that. A transaction that gives units back, changes a rule or inserts is two: at first it decides who will be rung, by
what it can see; at its commit all becomes visible, and the bell rings.

A wake-up is lost in a state in which a due job fits beside all that runs, a pool that serves the job's queue sleeps
with a free worker, and nothing prompt is left to happen. The poll does not exist here, and a job ends if it likes.

Left to the gate's model is the gate: who rings at a commit rings everybody who may sleep by then. Left out is time. So
a lane may go on whenever its turn could allow that, and need not; a job is overtaken at any moment; a token comes when
one is missing. The first jobs come first in line.

`Rules` says how the protocol goes. Its defaults are the protocol; each field changed is a mistake somebody could make.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from tests.pool.explorer import Haste, Step

# The state ----------------------------------------------------------------------------------------------------


class JobIs(IntEnum):
    COMING = 0  # not inserted yet
    QUEUED = 1
    CLAIMED = 2  # its pool has not heard so yet
    FOLLOWING = 3  # taken in the place of another; its pool has not heard so yet
    RUNNING = 4
    OVER = 5  # its handler is, and its outcome is not written
    TO_RETRY = 6  # the same, and it is to wait for its next attempt, longer than this model lasts
    WRITTEN = 7  # its units are free, and its pool has not heard so yet
    GONE = 8


HOLDS_UNITS = frozenset({JobIs.CLAIMED, JobIs.FOLLOWING, JobIs.RUNNING, JobIs.OVER, JobIs.TO_RETRY})
GUEST = -2
"""Who runs a job that no pool runs."""


class PoolIs(IntEnum):
    LOOKING = 0  # about to count its room
    ASKING = 1  # has counted its room, is about to claim
    TOLD = 2  # is about to hear what it has claimed
    TOLD_AGAIN = 3  # the same, of a claim whose reply had been lost
    RINGING = 4  # is about to ring for units that it has not taken
    BUSY = 5  # waits for a free worker
    RINGING_BUSY = 6
    DOZING = 7  # has claimed nothing, is about to ask when it may claim something
    DOZING_OFF = 8  # nothing fits, is about to ask when the next token comes
    DROWSY = 9  # is about to sleep, and no longer asks
    ASLEEP = 10
    RINGING_GONE = 11  # is about to leave, and to ring
    LEAVING = 12  # claims no more, and runs what it has claimed
    DEAD = 13


AWAKE = frozenset({PoolIs.LOOKING, PoolIs.RINGING, PoolIs.RINGING_BUSY, PoolIs.BUSY, PoolIs.ASLEEP})
"""Where an order to drain reaches a pool: a claim is shielded."""


class Job(NamedTuple):
    phase: JobIs
    pool: int = -1
    keeps_place: bool = False  # of its worker, for the next of the lane
    is_overtaken: bool = False  # has been due for so long that it reserves what it needs


class Pool(NamedTuple):
    phase: PoolIs = PoolIs.LOOKING
    room: int = 0
    owes: tuple[int, ...] = ()  # lanes that have given units back since the pool looked
    looks_for: tuple[int, ...] = ()  # the same, when the claim under way began
    must_ring: bool = False  # the finisher, which has given units back while no worker was free
    is_rung: bool = False
    has_timer: bool = False  # for the next token
    is_in_doubt: bool = False  # the reply to a claim was lost


class Deed(StrEnum):
    INSERT = "the INSERT"
    RETRY = "the retry"
    GUEST_ENDS = "the guest's finish"
    CANCEL = "the cancel"
    REQUEUE = "the requeue"
    CHANGE = "the change of a capacity"


class Transaction(NamedTuple):
    """One that is under way. rings: the pools that its commit will ring."""

    deed: Deed
    number: int  # of the job, the pool or the name
    rings: tuple[int, ...]


class State(NamedTuple):
    jobs: tuple[Job, ...]
    pools: tuple[Pool, ...]
    capacities: tuple[int, ...]
    tokens: tuple[int, ...]  # by name; of names without a rate, -1
    changes: int  # of capacities, that may still happen
    faults: int  # that may still happen
    under_way: tuple[Transaction, ...] = ()

    def with_pool(self, number: int, pool: Pool) -> State:
        return self._replace(pools=(*self.pools[:number], pool, *self.pools[number + 1 :]))

    def with_job(self, number: int, job: Job) -> State:
        return self._replace(jobs=(*self.jobs[:number], job, *self.jobs[number + 1 :]))

    def with_transaction(self, *transaction: object) -> State:
        under_way = sorted((*self.under_way, Transaction(*transaction)))  # type: ignore[arg-type]
        return self._replace(under_way=tuple(under_way))


class Fault(StrEnum):
    DEATH = "a pool dies"
    LOST_REPLY = "the reply to a claim is lost"
    FAILED_RING = "a ring fails"


class Payment(StrEnum):
    """When a pool that has looked for units given back lets others look."""

    UNLESS_REPLACED = "unless jobs of the same lanes have taken the places"
    UNLESS_AS_MANY = "unless it has taken as many jobs"
    NEVER = "never"


@dataclass(frozen=True)
class Rules:
    """How the protocol goes."""

    rings_at_retry: bool = True
    rings_at_guests_end: bool = True
    rings_at_cancel: bool = True
    rings_at_cancel_in_line: bool = True
    rings_at_requeue: bool = True
    requeues_for_pools_without_jobs: bool = True
    rings_at_change: bool = True
    rings_all_before_commit: bool = True
    """Whoever rings in a transaction rings all pools, and not only those for which the transaction sees jobs wait."""
    owes_a_look: bool = True
    pays: Payment = Payment.UNLESS_REPLACED
    rings_when_busy: bool = True
    rings_when_it_leaves: bool = True
    counts_what_was_lost: bool = False
    """Jobs of a claim whose reply was lost pay for units that were given back since."""
    rings_again_after_a_failure: bool = True
    finisher_rings_when_busy: bool = True
    remembers_rings_while_awake: bool = True
    waits_for_tokens: bool = True
    asks_at_one_instant: bool = True


class Need(NamedTuple):
    """What a job of the world is. needs: units by name."""

    needs: dict[int, int]
    queue: int = 0
    begins: Job = Job(JobIs.COMING)


@dataclass(frozen=True)
class World:
    """What there is, and what may happen."""

    jobs: tuple[Need, ...]
    pools: tuple[tuple[int, ...], ...] = ((0,), (0,))
    """The queues of each."""
    workers: int = 1
    capacities: tuple[int, ...] = (1,)
    rated: frozenset[int] = frozenset()
    """Names of which one token at a time is to be had."""
    follows: bool = True
    retries: bool = False
    cancels: bool = False
    overtakes: bool = False
    leaves: bool = False
    change: tuple[int, int] | None = None
    """A name, and its new capacity."""
    faults: tuple[Fault, ...] = ()
    start_settled: bool = False
    """Pools begin asleep, and busy if their workers are."""
    rules: Rules = field(default_factory=Rules)

    @property
    def start(self) -> State:
        tokens = tuple(1 if name in self.rated else -1 for name in range(len(self.capacities)))
        jobs = tuple(job.begins for job in self.jobs)
        faults, changes = int(bool(self.faults)), int(self.change is not None)
        state = State(jobs, (Pool(),) * len(self.pools), self.capacities, tokens, changes, faults)
        if self.start_settled:
            for number in range(len(self.pools)):
                phase = PoolIs.ASLEEP if free(self, state, number) else PoolIs.BUSY
                state = state.with_pool(number, Pool(phase))
        return state

    def steps(self, state: State) -> Steps:
        for number in range(len(state.pools)):
            yield from pool_steps(self, state, number)
        for number in range(len(state.jobs)):
            yield from job_steps(self, state, number)
        for transaction in state.under_way:
            yield commits(self, state, transaction)
        yield from times(self, state)
        for fault in self.faults if state.faults else ():
            for what, after in FAULTS[fault](self, state):
                yield Step(what, after._replace(faults=state.faults - 1), Haste.UNASKED)

    def is_lost(self, state: State) -> bool:
        return any(
            pool.phase is PoolIs.ASLEEP and free(self, state, number) and fitting(self, state, number, 1)
            for number, pool in enumerate(state.pools)
        )

    def representative(self, state: State) -> State:
        """The first in order: pools with the same queues are the same."""
        if len(set(self.pools)) < len(self.pools) == 2:
            return min(state, _exchanged(state))
        return state

    def lane(self, number: int) -> int:
        """The first job of the same lane."""
        return next(i for i, job in enumerate(self.jobs) if job[:2] == self.jobs[number][:2])


Steps = Iterator[Step[State]]


def _exchanged(state: State) -> State:
    """The same, with the two pools named the other way round."""
    other = {0: 1, 1: 0}
    return state._replace(
        jobs=tuple(job._replace(pool=other.get(job.pool, job.pool)) for job in state.jobs),
        pools=state.pools[::-1],
        under_way=tuple(
            sorted(
                transaction._replace(
                    number=other[transaction.number] if transaction.deed is Deed.REQUEUE else transaction.number,
                    rings=tuple(sorted(other[each] for each in transaction.rings)),
                )
                for transaction in state.under_way
            )
        ),
    )


# What the database counts -------------------------------------------------------------------------------------


def fitting(world: World, state: State, pool: int, most: int) -> list[int]:
    """The jobs that a claim of the pool takes: in line, but for those that do not fit. Who is overtaken reserves."""
    left = [
        capacity if state.tokens[name] < 0 else min(capacity, state.tokens[name])
        for name, capacity in enumerate(capacities_left(world, state))
    ]
    chosen: list[int] = []
    for number, job in enumerate(state.jobs):
        if job.phase is not JobIs.QUEUED or world.jobs[number].queue not in world.pools[pool]:
            continue
        needs = world.jobs[number].needs
        fits = all(left[name] >= units for name, units in needs.items())
        if fits or job.is_overtaken:
            for name, units in needs.items():
                left[name] -= units
        if fits and len(chosen) < most:
            chosen.append(number)
    return chosen


def capacities_left(world: World, state: State) -> list[int]:
    left = list(state.capacities)
    for number, job in enumerate(state.jobs):
        if job.phase in HOLDS_UNITS:
            for name, units in world.jobs[number].needs.items():
                left[name] -= units
    return left


def with_taken(world: World, state: State, numbers: list[int], phase: JobIs, pool: int) -> State:
    for number in numbers:
        state = state.with_job(number, Job(phase, pool))
        spent = world.jobs[number].needs
        tokens = tuple(each - spent.get(name, 0) if each >= 0 else each for name, each in enumerate(state.tokens))
        state = state._replace(tokens=tokens)
    return state


def waited_for(world: World, state: State) -> set[int]:
    """The queues in which jobs wait."""
    return {world.jobs[i].queue for i, job in enumerate(state.jobs) if job.phase is JobIs.QUEUED}


def serving(world: World, queues: set[int]) -> tuple[int, ...]:
    return tuple(number for number, served in enumerate(world.pools) if queues & {*served})


def with_rings(state: State, pools: tuple[int, ...]) -> State:
    for number in pools:
        pool = state.pools[number]
        if pool.phase not in {PoolIs.LEAVING, PoolIs.DEAD}:
            state = state.with_pool(number, pool._replace(is_rung=True))
    return state


# A pool --------------------------------------------------------------------------------------------------------


def pool_steps(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    if pool.phase in CLAIMER:
        yield from CLAIMER[pool.phase](world, state, number)
    if pool.phase is not PoolIs.DEAD:
        yield from finishes(world, state, number)
    if world.leaves and pool.phase in AWAKE:
        yield leaves(world, state, number)


# A pool's claimer ---------------------------------------------------------------------------------------------


def free(world: World, state: State, number: int) -> int:
    """Workers for which the pool, as far as it has heard, has no job."""
    return world.workers - sum(
        job.pool == number and (job.phase is JobIs.RUNNING or job.keeps_place) for job in state.jobs
    )


def counts_room(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    if room := free(world, state, number):
        asking = pool._replace(phase=PoolIs.ASKING, room=room, looks_for=pool.owes)
        yield Step(f"pool {number} has {room} free", state.with_pool(number, asking))
    else:
        must_ring = pool.owes and world.rules.rings_when_busy
        busy = pool._replace(phase=PoolIs.RINGING_BUSY if must_ring else PoolIs.BUSY)
        yield Step(f"pool {number} has none free", state.with_pool(number, busy))


def claims(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    if pool.is_in_doubt:
        told = pool._replace(phase=PoolIs.TOLD_AGAIN, is_in_doubt=False)
        yield Step(f"pool {number} takes back what it has claimed", state.with_pool(number, told))
        return
    numbers = fitting(world, state, number, pool.room)
    after = with_taken(world, state, numbers, JobIs.CLAIMED, number)
    yield Step(
        f"pool {number} claims {_jobs(numbers)}", after.with_pool(number, pool._replace(phase=PoolIs.TOLD, room=0))
    )


def is_told(world: World, state: State, number: int) -> Steps:
    """It hears what it has claimed, and may have to let others look for units that it has given back."""
    rules, pool = world.rules, state.pools[number]
    after, taken = _begun(state, number)
    unpaid = Counter(pool.looks_for) - Counter(world.lane(job) for job in taken)
    must_ring = {
        Payment.UNLESS_REPLACED: bool(unpaid),
        Payment.UNLESS_AS_MANY: len(taken) < len(pool.looks_for),
        Payment.NEVER: False,
    }[rules.pays]
    if must_ring:
        ringing = pool._replace(phase=PoolIs.RINGING)
        yield Step(f"pool {number} is to ring", after.with_pool(number, ringing))
        return
    paid = _paid(pool)._replace(phase=PoolIs.LOOKING if taken else PoolIs.DOZING)
    yield Step(f"pool {number} begins {_jobs(taken)}", after.with_pool(number, paid))


def is_told_again(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    after, taken = _begun(state, number)
    if world.rules.counts_what_was_lost and pool.looks_for:
        yield from is_told(world, state, number)
        return
    looking = pool._replace(phase=PoolIs.LOOKING, looks_for=())
    yield Step(f"pool {number} begins {_jobs(taken)}, which had been lost", after.with_pool(number, looking))


def _begun(state: State, number: int) -> tuple[State, list[int]]:
    taken = [i for i, job in enumerate(state.jobs) if job.phase is JobIs.CLAIMED and job.pool == number]
    for i in taken:
        state = state.with_job(i, Job(JobIs.RUNNING, number))
    return state, taken


def _paid(pool: Pool) -> Pool:
    owes = Counter(pool.owes) - Counter(pool.looks_for)
    return pool._replace(owes=tuple(sorted(owes.elements())), looks_for=())


def rings(world: World, state: State, number: int) -> Steps:
    """A statement of its own, after the units have become free. It rings whom it sees to wait."""
    pool = state.pools[number]
    after = with_rings(state, serving(world, waited_for(world, state)))
    if pool.phase is PoolIs.RINGING:
        pool = _paid(after.pools[number])._replace(phase=PoolIs.LOOKING)
    else:
        phase = PoolIs.BUSY if pool.phase is PoolIs.RINGING_BUSY else PoolIs.LEAVING
        pool = after.pools[number]._replace(phase=phase, owes=())
    yield Step(f"pool {number} rings for units", after.with_pool(number, pool))


def is_busy(world: World, state: State, number: int) -> Steps:
    if free(world, state, number):
        looking = state.pools[number]._replace(phase=PoolIs.LOOKING)
        yield Step(f"pool {number} has a free worker", state.with_pool(number, looking))


def asks(world: World, state: State, number: int) -> Steps:
    """When it may claim something. One that is due and fits: now."""
    pool = state.pools[number]
    if fitting(world, state, number, 1):
        now = pool._replace(phase=PoolIs.LOOKING)
        yield Step(f"pool {number} hears that a job fits", state.with_pool(number, now))
    elif world.rules.asks_at_one_instant:
        yield from asks_for_token(world, state, number)
    else:
        asking = pool._replace(phase=PoolIs.DOZING_OFF)
        yield Step(f"pool {number} hears that no job fits", state.with_pool(number, asking))


def asks_for_token(world: World, state: State, number: int) -> Steps:
    has_timer = world.rules.waits_for_tokens and any(
        job.phase is JobIs.QUEUED
        and world.jobs[i].queue in world.pools[number]
        and any(state.tokens[name] == 0 for name in world.jobs[i].needs)
        for i, job in enumerate(state.jobs)
    )
    # That a pool hears a moment later makes a difference only to one that forgets rings meanwhile.
    phase = PoolIs.ASLEEP if world.rules.remembers_rings_while_awake else PoolIs.DROWSY
    asleep = state.pools[number]._replace(phase=phase, has_timer=has_timer)
    what = "sleeps until a token comes" if has_timer else "sleeps"
    yield Step(f"pool {number} {what}", state.with_pool(number, asleep))


def falls_asleep(_: World, state: State, number: int) -> Steps:
    asleep = state.pools[number]._replace(phase=PoolIs.ASLEEP, is_rung=False)
    yield Step(f"pool {number} falls asleep", state.with_pool(number, asleep))


def sleeps(_: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    awake = pool._replace(phase=PoolIs.LOOKING, is_rung=False, has_timer=False)
    if pool.is_rung:
        yield Step(f"pool {number} wakes", state.with_pool(number, awake))
    if pool.has_timer and 1 in state.tokens:
        yield Step(f"pool {number} looks, for a token has come", state.with_pool(number, awake))


def leaves(world: World, state: State, number: int) -> Step[State]:
    pool = state.pools[number]
    must_ring = pool.owes and world.rules.rings_when_it_leaves
    phase = PoolIs.RINGING_GONE if must_ring else PoolIs.LEAVING
    gone = Pool(phase, owes=pool.owes if must_ring else (), must_ring=pool.must_ring)
    return Step(f"pool {number} drains", state.with_pool(number, gone), Haste.AT_LEISURE)


CLAIMER: dict[PoolIs, Callable[[World, State, int], Steps]] = {
    PoolIs.LOOKING: counts_room,
    PoolIs.ASKING: claims,
    PoolIs.TOLD: is_told,
    PoolIs.TOLD_AGAIN: is_told_again,
    PoolIs.RINGING: rings,
    PoolIs.RINGING_BUSY: rings,
    PoolIs.RINGING_GONE: rings,
    PoolIs.BUSY: is_busy,
    PoolIs.DOZING: asks,
    PoolIs.DOZING_OFF: asks_for_token,
    PoolIs.DROWSY: falls_asleep,
    PoolIs.ASLEEP: sleeps,
}


# A pool's finisher --------------------------------------------------------------------------------------------


def finishes(world: World, state: State, number: int) -> Steps:
    """One statement at a time: it writes an end, hears what follows, and rings if it must."""
    pool = state.pools[number]
    written = [i for i, job in enumerate(state.jobs) if job.phase is JobIs.WRITTEN and job.pool == number]
    if pool.must_ring:
        after = with_rings(state, serving(world, waited_for(world, state)))
        after = after.with_pool(number, after.pools[number]._replace(must_ring=False))
        yield Step(f"pool {number}'s finisher rings for units", after)
    elif written:
        yield settles(world, state, number, written[0])
    else:
        for i, job in enumerate(state.jobs):
            if job.phase is JobIs.OVER and job.pool == number:
                yield from ends(world, state, number, i)
            if (
                job.phase is JobIs.TO_RETRY
                and job.pool == number
                and not any(each.deed is Deed.RETRY and each.number == i for each in state.under_way)
            ):
                yield begins(world, state, Deed.RETRY, i)._replace(haste=Haste.PROMPT)


def ends(world: World, state: State, number: int, ended: int) -> Steps:
    """The outcome is committed. The next of the lane may follow, or the lane's turn is over and others wait."""
    after = state.with_job(ended, state.jobs[ended]._replace(phase=JobIs.WRITTEN))
    yield Step(f"job {ended} is finished", after)
    if state.jobs[ended].keeps_place:
        for next_one, job in enumerate(state.jobs):
            if job.phase is JobIs.QUEUED and world.lane(next_one) == world.lane(ended):
                following = after.with_job(next_one, Job(JobIs.FOLLOWING, number))
                yield Step(f"job {ended} is finished, and job {next_one} follows", following)
                break


def settles(world: World, state: State, number: int, ended: int) -> Step[State]:
    rules = world.rules
    followed = [i for i, job in enumerate(state.jobs) if job.phase is JobIs.FOLLOWING and job.pool == number]
    state = state.with_job(ended, Job(JobIs.GONE))
    for i in followed:
        state = state.with_job(i, Job(JobIs.RUNNING, number))
    pool = state.pools[number]
    what = f"pool {number} hears that job {ended} is finished"
    if followed:
        return Step(f"{what} and begins {_jobs(followed)}", state)
    claims_no_more = pool.phase in {PoolIs.RINGING_GONE, PoolIs.LEAVING}
    if free(world, state, number) and not claims_no_more:
        if rules.owes_a_look:
            owes = tuple(sorted((*pool.owes, world.lane(ended))))
            state = state.with_pool(number, pool._replace(owes=owes, is_rung=True))
        return Step(f"{what}, and is to look", state)
    return Step(what, state.with_pool(number, pool._replace(must_ring=rules.finisher_rings_when_busy)))


# Jobs ---------------------------------------------------------------------------------------------------------


def job_steps(world: World, state: State, number: int) -> Steps:
    job = state.jobs[number]
    if any(each.number == number and each.deed in JOB_DEEDS for each in state.under_way):
        return
    if job.phase is JobIs.COMING:
        serves = serving(world, {world.jobs[number].queue})
        begun = state.with_transaction(Deed.INSERT, number, serves)
        yield Step(f"job {number} is written", begun, Haste.AT_LEISURE)
    elif job.phase is JobIs.QUEUED:
        yield from waits(world, state, number)
    elif job.phase is JobIs.RUNNING and job.pool == GUEST:
        yield begins(world, state, Deed.GUEST_ENDS, number)
        if world.cancels:
            yield begins(world, state, Deed.CANCEL, number)
    elif job.phase is JobIs.RUNNING and state.pools[job.pool].phase is not PoolIs.DEAD:
        yield from handler_ends(world, state, number)


def waits(world: World, state: State, number: int) -> Steps:
    job = state.jobs[number]
    if world.cancels:
        yield begins(world, state, Deed.CANCEL, number)
    if world.overtakes and not job.is_overtaken:
        overtaken = state.with_job(number, job._replace(is_overtaken=True))
        yield Step(f"job {number} is overtaken", overtaken, Haste.AT_LEISURE)


def handler_ends(world: World, state: State, number: int) -> Steps:
    job = state.jobs[number]
    over = job._replace(phase=JobIs.OVER)
    yield Step(f"the handler of job {number} is over", state.with_job(number, over), Haste.AT_LEISURE)
    if world.follows:
        kept = state.with_job(number, over._replace(keeps_place=True))
        yield Step(f"the handler of job {number} is over, and its lane may go on", kept, Haste.AT_LEISURE)
    if world.retries:
        failed = state.with_job(number, job._replace(phase=JobIs.TO_RETRY))
        yield Step(f"the handler of job {number} fails", failed, Haste.AT_LEISURE)


JOB_DEEDS = frozenset({Deed.INSERT, Deed.RETRY, Deed.CANCEL, Deed.GUEST_ENDS})


def begins(world: World, state: State, deed: Deed, number: int) -> Step[State]:
    """A transaction that gives units back, or changes a rule: it decides whom to ring."""
    begun = state.with_transaction(deed, number, whom_to_ring(world, state, deed, number))
    return Step(f"{deed} of {number} is written", begun, Haste.AT_LEISURE)


def whom_to_ring(world: World, state: State, deed: Deed, number: int) -> tuple[int, ...]:
    rules = world.rules
    is_in_line = deed is Deed.CANCEL and state.jobs[number].phase is JobIs.QUEUED
    if not {
        Deed.RETRY: rules.rings_at_retry,
        Deed.GUEST_ENDS: rules.rings_at_guests_end,
        Deed.CANCEL: rules.rings_at_cancel and (rules.rings_at_cancel_in_line or not is_in_line),
        Deed.REQUEUE: rules.rings_at_requeue,
        Deed.CHANGE: rules.rings_at_change,
    }[deed]:
        return ()
    if rules.rings_all_before_commit or deed is Deed.CHANGE:
        return tuple(range(len(world.pools)))
    return serving(world, waited_for(world, state))


def commits(world: World, state: State, transaction: Transaction) -> Step[State]:
    deed, number, its_rings = transaction
    left = list(state.under_way)
    left.remove(transaction)
    state = state._replace(under_way=tuple(left))
    if deed is Deed.CHANGE:
        assert world.change
        name, capacity = world.change
        capacities = (*state.capacities[:name], capacity, *state.capacities[name + 1 :])
        state = state._replace(capacities=capacities)
    elif deed is Deed.REQUEUE:
        for i, job in enumerate(state.jobs):
            if job.pool == number and job.phase in HOLDS_UNITS:
                state = state.with_job(i, Job(JobIs.QUEUED))
    elif deed is Deed.INSERT:
        state = state.with_job(number, Job(JobIs.QUEUED))
    elif deed is not Deed.CANCEL or state.jobs[number].phase is JobIs.QUEUED or state.jobs[number].pool == GUEST:
        state = state.with_job(number, Job(JobIs.GONE))
    return Step(f"{deed} of {number} commits, and rings {its_rings or 'nobody'}", with_rings(state, its_rings))


# Time and faults ----------------------------------------------------------------------------------------------


def times(world: World, state: State) -> Steps:
    for name, tokens in enumerate(state.tokens):
        if tokens == 0:
            more = (*state.tokens[:name], 1, *state.tokens[name + 1 :])
            yield Step(f"a token of name {name} comes", state._replace(tokens=more))
    if state.changes and world.change:
        yield begins(world, state._replace(changes=state.changes - 1), Deed.CHANGE, world.change[0])


Mishaps = Iterator[tuple[str, State]]


def death(world: World, state: State) -> Mishaps:
    """Somebody finds the death, and requeues the pool's jobs. What it had written is written."""
    for number, pool in enumerate(state.pools):
        if pool.phase is PoolIs.DEAD:
            continue
        after = state.with_pool(number, Pool(PoolIs.DEAD))
        for i, job in enumerate(state.jobs):
            if job.phase is JobIs.WRITTEN and job.pool == number:
                after = after.with_job(i, Job(JobIs.GONE))
        under_way = tuple(
            each for each in state.under_way if each.deed is not Deed.RETRY or state.jobs[each.number].pool != number
        )
        after = after._replace(under_way=under_way)
        has_jobs = any(job.pool == number and job.phase in HOLDS_UNITS for job in after.jobs)
        if has_jobs or world.rules.requeues_for_pools_without_jobs:
            after = after.with_transaction(Deed.REQUEUE, number, whom_to_ring(world, after, Deed.REQUEUE, number))
        yield f"pool {number} dies", after


def lost_reply(_: World, state: State) -> Mishaps:
    for number, pool in enumerate(state.pools):
        if pool.phase is PoolIs.TOLD:
            again = pool._replace(phase=PoolIs.LOOKING, is_in_doubt=True, looks_for=())
            yield f"the reply to pool {number}'s claim is lost", state.with_pool(number, again)


def failed_ring(world: World, state: State) -> Mishaps:
    for number, pool in enumerate(state.pools):
        if pool.phase is PoolIs.RINGING:
            phase = PoolIs.LOOKING if world.rules.rings_again_after_a_failure else PoolIs.DOZING
            failed = pool._replace(phase=phase, looks_for=())
            yield f"pool {number} cannot ring", state.with_pool(number, failed)


FAULTS: dict[Fault, Callable[[World, State], Mishaps]] = {
    Fault.DEATH: death,
    Fault.LOST_REPLY: lost_reply,
    Fault.FAILED_RING: failed_ring,
}


def _jobs(numbers: list[int]) -> str:
    return " and ".join(f"job {number}" for number in numbers) or "no job"
