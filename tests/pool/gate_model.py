"""The gate as a small model: every interleaving of its steps is searched for a wake-up that is lost.

Theory of operation. A state is a tuple: the gate, the pools, the inserters. Each actor has a few steps, and each step
is as large as what PostgreSQL or a pool does at one instant: a gate is read in one and written in another; a commit
becomes visible, then releases its locks, then signals the listeners; a notification is under way until it is heard.
The explorer takes every step from every state, breadth first, so that the first failure it meets is a shortest one.

A wake-up is lost in a state in which a committed job is queued, a live pool sleeps with a free worker, and nothing
*prompt* is left to happen: no statement, delivery or reconnection is under way. Whatever else may happen takes its
time, or may never: an inserter goes on, a job ends, a renewal comes. So the poll, the renewal and other people's
luck are no part of the argument. A pool that waits for passers looks again, and so does not sleep.

What is left out makes the model stricter, or is not the gate's: a pool asks for the next due time before it sleeps,
which would find some jobs that have come late; claims that fail; the lease; time, but for a gate that runs out.

`Rules` says how the protocol goes. Its defaults are the protocol; each field changed is a mistake somebody could make,
and has to lose a wake-up somewhere, or the model would not see it. Configurations stay small: the gate has no counters,
so what two pools and two inserters cannot break, more of them break no differently. That last is a belief, no proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag, StrEnum
from itertools import combinations, permutations
from typing import NamedTuple

from tests.pool.explorer import Haste, Step

# The state ----------------------------------------------------------------------------------------------------


class PoolIs(IntEnum):
    CLAIMING = 0
    OPENING = 1  # about to read the gate
    WRITING = 2  # has read it, is about to write it
    NOTING = 3  # has written it, is about to note the passers
    WAITING = 4  # for passers
    DROWSY = 5  # is about to sleep, and no longer looks
    ASLEEP = 6
    SATURATED = 7  # its last claim took all that it could
    SHUTTING = 8  # the gate is shut, the transaction that says so has not committed
    LEAVING = 9  # the same, of a pool that drains
    GONE = 10  # drained or dead


class InserterIs(IntEnum):
    OUTSIDE = 0  # holds no lock on the table
    WRITING = 1  # holds the lock, has not read the gate
    INSERTED = 2  # has read the gate
    PREPARED = 3
    UNLOCKED = 4  # no PostgreSQL: its locks are released, its row is not visible yet
    VISIBLE = 5  # its locks are not released yet
    RELEASED = 6  # the listeners are not signalled yet
    OVER = 7


HOLDS_LOCK = frozenset({InserterIs.WRITING, InserterIs.INSERTED, InserterIs.PREPARED, InserterIs.VISIBLE})


class Row(IntEnum):
    NONE = 0  # never written, not committed, or finished
    QUEUED = 1
    RUNNING = 2


class Bell(IntEnum):
    """What a transaction has notified."""

    SILENT = 0
    RINGS = 1  # at its commit
    BY_HAND = 2  # `pushq.notify = off` for a two-phase commit, and `pushq.ring` after it
    TAKEN_BACK = 3  # by a rolled-back savepoint


class Notice(IntFlag):
    """Notifications on their way to a pool. Equal ones are as good as one."""

    NONE = 0
    INSERTED = 1
    SHUT = 2


class Pool(NamedTuple):
    phase: PoolIs = PoolIs.CLAIMING
    has_opened: bool = False  # believes that the gate has been open since it noted the passers
    is_due: bool = False  # for a renewal
    must_note: bool = False  # between the reading of the gate and the noting of passers
    has_passers: bool = False
    is_rung: bool = False
    is_in_doubt: bool = False  # has been deaf, or has heard that somebody shut the gate
    hears: bool = True
    coming: Notice = Notice.NONE


class Inserter(NamedTuple):
    """A transaction, and its row. What pools think of it is kept here, so that equal inserters are equal."""

    phase: InserterIs = InserterIs.OUTSIDE
    bell: Bell = Bell.SILENT
    row: Row = Row.NONE
    runs_in: int = -1  # the pool
    passer_of: tuple[int, ...] = ()  # the pools that wait for it
    snapshot: int = -1  # the gate when its snapshot was taken; -1: is taken by each statement anew


class State(NamedTuple):
    gate: bool
    pools: tuple[Pool, ...]
    inserters: tuple[Inserter, ...]
    faults: int  # that may still happen

    def with_pool(self, number: int, pool: Pool) -> State:
        return State(self.gate, (*self.pools[:number], pool, *self.pools[number + 1 :]), self.inserters, self.faults)

    def with_inserter(self, number: int, inserter: Inserter) -> State:
        inserters = (*self.inserters[:number], inserter, *self.inserters[number + 1 :])
        return State(self.gate, self.pools, inserters, self.faults)


class Fault(StrEnum):
    RESTART = "the server crashes and is back"
    CUT = "a listener's connection is cut"
    DEATH = "a pool dies"
    HICCUP = "a statement of an opening fails"
    CUT_OFF_SHUT = "a shutting transaction is aborted"
    EXPIRY = "the gate runs out"


@dataclass(frozen=True)
class Rules:
    """How the protocol goes."""

    claims_after_opening: bool = True
    notes_passers: bool = True
    notes_before_opening: bool = False
    notes_prepared: bool = True
    trusts_only_its_own_opening: bool = True
    notes_when_found_shut: bool = True
    failed_opening_is_forgotten: bool = True
    looks_until_all_are_gone: bool = True
    claims_after_last_look: bool = True
    remembers_rings_while_awake: bool = True
    opens_only_while_it_hears: bool = True
    rung_when_it_hears_again: bool = True
    begins_anew_when_it_hears_again: bool = True
    rings_when_it_shuts: bool = True
    rings_before_it_shuts: bool = False
    begins_anew_when_somebody_shut: bool = True
    renews_when_somebody_shut: bool = False
    gate_is_a_row: bool = False
    locks_outlive_invisibility: bool = True
    savepoint_takes_its_ring_back: bool = True
    outlasts_its_sleepers: bool = True


@dataclass(frozen=True)
class World:
    """What there is, and what may happen. Faults are counted; whatever else may happen may happen again and again."""

    pools: int = 1
    inserters: int = 1
    workers: int = 1
    start_deaf: bool = False
    start_settled: bool = False
    leave: bool = False
    streams: bool = False
    """A pool with free workers may shut the gate, also a gate that it has not opened."""
    renewals: bool = True
    savepoints: bool = False
    prepare: bool = False
    old_snapshots: bool = False
    notices_travel: bool = True
    """A notification may reach one pool later than the other."""
    faults: tuple[Fault, ...] = ()
    """Those that may happen."""
    most_faults: int = 1
    rules: Rules = field(default_factory=Rules)

    @property
    def start(self) -> State:
        if self.start_settled:
            return self._settled
        pools = (Pool(hears=not self.start_deaf),) * self.pools
        return State(False, pools, (Inserter(),) * self.inserters, self.most_faults if self.faults else 0)

    @property
    def _settled(self) -> State:
        """The gate is open, pool 0 has all its workers busy with one more job, the others sleep."""
        busy = Pool(PoolIs.SATURATED, has_opened=True)
        asleep = Pool(PoolIs.ASLEEP, has_opened=True)
        return State(
            gate=True,
            pools=(busy, *(asleep,) * (self.pools - 1)),
            inserters=(Inserter(InserterIs.OVER, row=Row.RUNNING, runs_in=0), *(Inserter(),) * self.inserters),
            faults=self.most_faults if self.faults else 0,
        )

    def steps(self, state: State) -> Steps:
        return steps(self, state)

    def is_lost(self, state: State) -> bool:
        return is_lost(self, state)

    def representative(self, state: State) -> State:
        return representative(state)


# The steps ----------------------------------------------------------------------------------------------------


Steps = Iterator[Step[State]]


def steps(world: World, state: State) -> Steps:
    for number in range(len(state.pools)):
        yield from pool_steps(world, state, number)
    for number in range(len(state.inserters)):
        yield from inserter_steps(world, state, number)
        yield from job_ends(state, number)
    if state.faults:
        for fault in world.faults:
            for what, after in FAULTS[fault](world, state):
                yield Step(what, after._replace(faults=state.faults - 1), Haste.UNASKED)


# A pool -------------------------------------------------------------------------------------------------------


def pool_steps(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    if pool.phase is PoolIs.GONE:
        return
    yield from POOL_STEPS[pool.phase](world, state, number)
    yield from hears(world, state, number)
    if world.leave and pool.phase in {PoolIs.WAITING, PoolIs.ASLEEP, PoolIs.SATURATED}:
        yield from leaves(world, state, number)


def claims(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    queued = [i for i, inserter in enumerate(state.inserters) if inserter.row is Row.QUEUED]
    if not queued:
        yield Step(f"pool {number} claims nothing", state.with_pool(number, has_found_nothing(world, pool)))
        if world.streams:
            yield from shuts(world, state, number, PoolIs.SHUTTING, otherwise=PoolIs.CLAIMING, is_in_a_stream=True)
    limit = free_workers(world, state, number)
    for taken in combinations(queued, min(limit, len(queued))):
        after = state
        for i in taken:
            after = after.with_inserter(i, state.inserters[i]._replace(row=Row.RUNNING, runs_in=number))
            after = after.with_pool(
                number, pool._replace(phase=PoolIs.SATURATED if len(taken) == limit else PoolIs.CLAIMING)
            )
        yield Step(f"pool {number} claims {_jobs(taken)}", after)


def has_found_nothing(world: World, pool: Pool) -> Pool:
    """What a pool does next."""
    if pool.is_in_doubt:
        pool = forgetful(pool)._replace(is_in_doubt=False)
    if not pool.hears and world.rules.opens_only_while_it_hears:
        return pool._replace(phase=bedtime(world))
    if pool.has_passers:
        return pool._replace(phase=PoolIs.WAITING)
    if pool.has_opened and not pool.is_due:
        return pool._replace(phase=bedtime(world))
    return pool._replace(phase=PoolIs.OPENING)


def bedtime(world: World) -> PoolIs:
    """That a pool is awake until it sleeps makes a difference only to one that forgets rings while it is awake."""
    return PoolIs.ASLEEP if world.rules.remembers_rings_while_awake else PoolIs.DROWSY


def forgetful(pool: Pool) -> Pool:
    return pool._replace(has_opened=False, is_due=False, has_passers=False)


def reads_gate(world: World, state: State, number: int) -> Steps:
    """The first half of an opening. To read a sequence and to write it are not one step."""
    rules, pool = world.rules, state.pools[number]
    yield from takes_ring(state, number)
    must_note = (not state.gate and rules.notes_when_found_shut) or not pool.has_opened
    if not rules.trusts_only_its_own_opening:
        must_note = not state.gate
    what = f"pool {number} finds the gate {_gate(state.gate)}"
    if rules.notes_before_opening and must_note:
        what, state, must_note = f"{what} and notes passers", with_passers(world, state, number), False
    pool = state.pools[number]._replace(
        phase=PoolIs.WRITING,
        has_opened=pool.has_opened and not rules.failed_opening_is_forgotten,
        must_note=must_note and rules.notes_passers,
    )
    yield Step(what, state.with_pool(number, pool))


def writes_gate(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    opened = pool._replace(phase=PoolIs.NOTING) if pool.must_note else has_opened(world, pool)
    yield Step(f"pool {number} opens the gate", state.with_pool(number, opened)._replace(gate=True))


def notes_passers(world: World, state: State, number: int) -> Steps:
    after = with_passers(world, state, number)
    noted = [i for i, inserter in enumerate(after.inserters) if number in inserter.passer_of]
    what = f"pool {number} notes {_jobs(noted)}" if noted else f"pool {number} notes no passers"
    yield Step(what, after.with_pool(number, has_opened(world, after.pools[number])))


def with_passers(world: World, state: State, number: int) -> State:
    for i, inserter in enumerate(state.inserters):
        is_passer = inserter.phase in HOLDS_LOCK
        if inserter.phase is InserterIs.PREPARED and not world.rules.notes_prepared:
            is_passer = False
        others = _without(number, inserter.passer_of)
        noted = tuple(sorted((*others, number))) if is_passer else others
        state = state.with_inserter(i, inserter._replace(passer_of=noted))
    has_passers = any(number in inserter.passer_of for inserter in state.inserters)
    return state.with_pool(number, state.pools[number]._replace(has_passers=has_passers))


def _without(number: int, numbers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(each for each in numbers if each != number)


def has_opened(world: World, pool: Pool) -> Pool:
    pool = pool._replace(phase=PoolIs.CLAIMING, has_opened=True, is_due=False, must_note=False)
    return pool if world.rules.claims_after_opening else has_found_nothing(world, pool)


def looks_again(world: World, state: State, number: int) -> Steps:
    rules, pool = world.rules, state.pools[number]
    yield from takes_ring(state, number)
    is_left = any(number in each.passer_of and each.phase in HOLDS_LOCK for each in state.inserters)
    pool = pool._replace(phase=PoolIs.CLAIMING, has_passers=is_left and rules.looks_until_all_are_gone)
    if not is_left and not rules.claims_after_last_look:
        pool = has_found_nothing(world, pool)
    yield Step(
        f"pool {number} sees that passers {'are left' if is_left else 'are gone'}", state.with_pool(number, pool)
    )


def falls_asleep(_: World, state: State, number: int) -> Steps:
    asleep = state.pools[number]._replace(phase=PoolIs.ASLEEP)
    yield Step(f"pool {number} falls asleep", state.with_pool(number, asleep))


def sleeps(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    yield from takes_ring(state, number)
    if world.renewals and pool.hears and pool.has_opened:
        renewed = pool._replace(phase=PoolIs.CLAIMING, is_due=True)
        yield Step(f"pool {number} is to renew", state.with_pool(number, renewed), Haste.UNASKED)


def takes_ring(state: State, number: int) -> Steps:
    pool = state.pools[number]
    if pool.is_rung:
        woken = pool._replace(phase=PoolIs.CLAIMING, is_rung=False)
        yield Step(f"pool {number} wakes", state.with_pool(number, woken))


def is_saturated(world: World, state: State, number: int) -> Steps:
    pool = state.pools[number]
    if free_workers(world, state, number):
        yield Step(f"pool {number} has a free worker", state.with_pool(number, pool._replace(phase=PoolIs.CLAIMING)))
    if not pool.has_opened:
        return
    yield from shuts(world, state, number, PoolIs.SHUTTING, otherwise=PoolIs.SATURATED)
    if state.gate:
        unable = state.with_pool(number, forgetful(pool))
        yield Step(f"pool {number} cannot ring and leaves the gate open", unable, Haste.AT_LEISURE)


def leaves(world: World, state: State, number: int) -> Steps:
    yield from shuts(world, state, number, PoolIs.LEAVING, otherwise=PoolIs.GONE)


def shuts(
    world: World, state: State, number: int, phase: PoolIs, *, otherwise: PoolIs, is_in_a_stream: bool = False
) -> Steps:
    """The first half of a shutting: everybody sees the gate shut, and its transaction has not committed."""
    pool = state.pools[number]
    is_mine = is_in_a_stream or (state.gate and pool.has_opened)
    after = state.with_pool(number, forgetful(pool)._replace(phase=phase if is_mine else otherwise))
    if is_mine:
        after = (
            with_notice(world, after, Notice.SHUT) if world.rules.rings_before_it_shuts else after._replace(gate=False)
        )
    what = "leaves" if otherwise is PoolIs.GONE else "is busy"
    yield Step(f"pool {number} {what}{' and shuts the gate' if is_mine else ''}", after, Haste.AT_LEISURE)


def has_shut(world: World, state: State, number: int) -> Steps:
    """The second half: the commit."""
    pool = state.pools[number]
    phase = PoolIs.SATURATED if pool.phase is PoolIs.SHUTTING else PoolIs.GONE
    after = state.with_pool(number, pool._replace(phase=phase))
    if world.rules.rings_before_it_shuts:
        yield Step(f"pool {number}'s shutting takes place", after._replace(gate=False))
    elif world.rules.rings_when_it_shuts:
        yield Step(f"pool {number}'s shutting rings everybody", with_notice(world, after, Notice.SHUT))
    else:
        yield Step(f"pool {number}'s shutting commits", after)


def hears(world: World, state: State, number: int) -> Steps:
    """The listener, at any time, whatever the claimer does."""
    rules, pool = world.rules, state.pools[number]
    if not pool.hears:
        wired = pool._replace(
            hears=True,
            is_rung=pool.is_rung or rules.rung_when_it_hears_again,
            is_in_doubt=pool.is_in_doubt or rules.begins_anew_when_it_hears_again,
        )
        yield Step(f"pool {number} listens", state.with_pool(number, wired))
    if pool.coming:
        what = f"pool {number} hears {'that the gate was shut' if Notice.SHUT in pool.coming else 'a ring'}"
        yield Step(what, state.with_pool(number, with_heard(world, pool)))


def with_heard(world: World, pool: Pool) -> Pool:
    rules, has_shut = world.rules, Notice.SHUT in pool.coming
    return pool._replace(
        coming=Notice.NONE,
        is_rung=pool.is_rung or rules.remembers_rings_while_awake or pool.phase is PoolIs.ASLEEP,
        is_in_doubt=pool.is_in_doubt or (has_shut and rules.begins_anew_when_somebody_shut),
        is_due=pool.is_due or (has_shut and rules.renews_when_somebody_shut and pool.has_opened),
    )


def with_notice(world: World, state: State, notice: Notice) -> State:
    for number, pool in enumerate(state.pools):
        if pool.hears and pool.phase is not PoolIs.GONE:
            signalled = pool._replace(coming=pool.coming | notice)
            state = state.with_pool(number, signalled if world.notices_travel else with_heard(world, signalled))
    return state


def free_workers(world: World, state: State, number: int) -> int:
    return world.workers - sum(inserter.runs_in == number for inserter in state.inserters)


POOL_STEPS: dict[PoolIs, Callable[[World, State, int], Steps]] = {
    PoolIs.CLAIMING: claims,
    PoolIs.OPENING: reads_gate,
    PoolIs.WRITING: writes_gate,
    PoolIs.NOTING: notes_passers,
    PoolIs.WAITING: looks_again,
    PoolIs.DROWSY: falls_asleep,
    PoolIs.ASLEEP: sleeps,
    PoolIs.SATURATED: is_saturated,
    PoolIs.SHUTTING: has_shut,
    PoolIs.LEAVING: has_shut,
}


# An inserter --------------------------------------------------------------------------------------------------


def inserter_steps(world: World, state: State, number: int) -> Steps:
    if state.inserters[number].phase in INSERTER_STEPS:
        yield from INSERTER_STEPS[state.inserters[number].phase](world, state, number)


def begins(world: World, state: State, number: int) -> Steps:
    inserter = state.inserters[number]
    writing = state.with_inserter(number, inserter._replace(phase=InserterIs.WRITING))
    yield Step(f"inserter {number} begins to write", writing, Haste.AT_LEISURE)
    if world.old_snapshots and inserter.snapshot < 0:
        old = state.with_inserter(number, inserter._replace(snapshot=int(state.gate)))
        yield Step(f"inserter {number} takes its snapshot", old, Haste.AT_LEISURE)


def inserts(world: World, state: State, number: int) -> Steps:
    """It has the lock. Its row is written, and the AFTER trigger reads the gate."""
    inserter = state.inserters[number]
    is_open = state.gate
    if world.rules.gate_is_a_row and inserter.snapshot >= 0:
        is_open = bool(inserter.snapshot)
    bell = Bell.RINGS if is_open else Bell.SILENT
    if inserter.bell is Bell.TAKEN_BACK and not world.rules.savepoint_takes_its_ring_back:
        bell = Bell.TAKEN_BACK
    inserted = inserter._replace(phase=InserterIs.INSERTED, bell=bell)
    what = f"inserter {number} {'is to ring' if bell is Bell.RINGS else 'skips the bell'}"
    yield Step(what, state.with_inserter(number, inserted), Haste.AT_LEISURE)
    if world.prepare:
        quiet = state.with_inserter(number, inserted._replace(bell=Bell.BY_HAND))
        yield Step(f"inserter {number} is to ring by hand", quiet, Haste.AT_LEISURE)


def ends(world: World, state: State, number: int) -> Steps:
    inserter = state.inserters[number]
    if inserter.bell is not Bell.BY_HAND:
        yield commits(world, state, number)
    yield rolls_back(state, number)
    if world.prepare and inserter.bell is not Bell.RINGS:
        prepared = inserter._replace(phase=InserterIs.PREPARED)
        yield Step(f"inserter {number} prepares", state.with_inserter(number, prepared), Haste.AT_LEISURE)
    if world.savepoints:
        yield from rolls_back_to_savepoint(world, state, number)


def ends_prepared(world: World, state: State, number: int) -> Steps:
    yield commits(world, state, number)
    yield rolls_back(state, number)


def commits(world: World, state: State, number: int) -> Step[State]:
    inserter = state.inserters[number]
    after = inserter._replace(phase=InserterIs.VISIBLE, row=Row.QUEUED)
    if not world.rules.locks_outlive_invisibility:
        after = inserter._replace(phase=InserterIs.UNLOCKED)
    return Step(f"inserter {number} commits", state.with_inserter(number, after), Haste.AT_LEISURE)


def rolls_back(state: State, number: int) -> Step[State]:
    over = state.with_inserter(number, Inserter(phase=InserterIs.OVER))
    return Step(f"inserter {number} rolls back", over, Haste.AT_LEISURE)


def rolls_back_to_savepoint(world: World, state: State, number: int) -> Steps:
    """With its row goes its ring, and its lock, if it was taken since. Then the transaction may insert again."""
    inserter = state.inserters[number]
    bell = Bell.SILENT
    if inserter.bell is Bell.RINGS and not world.rules.savepoint_takes_its_ring_back:
        bell = Bell.TAKEN_BACK
    for phase, what in ((InserterIs.OUTSIDE, "its lock"), (InserterIs.WRITING, "its row")):
        after = state.with_inserter(number, inserter._replace(phase=phase, bell=bell))
        yield Step(f"inserter {number} rolls {what} back to a savepoint", after, Haste.AT_LEISURE)


def appears(_: World, state: State, number: int) -> Steps:
    inserter = state.inserters[number]._replace(row=Row.QUEUED, passer_of=())
    yield Step(f"inserter {number} is visible, too late", state.with_inserter(number, released(inserter)))


def releases(_: World, state: State, number: int) -> Steps:
    after = state.with_inserter(number, released(state.inserters[number]._replace(passer_of=())))
    yield Step(f"inserter {number} releases its lock", after)


def released(inserter: Inserter) -> Inserter:
    rings = inserter.bell in {Bell.RINGS, Bell.BY_HAND}
    return inserter._replace(phase=InserterIs.RELEASED) if rings else committed(inserter)


def signals(world: World, state: State, number: int) -> Steps:
    after = state.with_inserter(number, committed(state.inserters[number]))
    yield Step(f"inserter {number} rings", with_notice(world, after, Notice.INSERTED))


def committed(inserter: Inserter) -> Inserter:
    return Inserter(phase=InserterIs.OVER, row=inserter.row, runs_in=inserter.runs_in)


def job_ends(state: State, number: int) -> Steps:
    inserter = state.inserters[number]
    if inserter.row is Row.RUNNING:
        ended = inserter._replace(row=Row.NONE, runs_in=-1)
        yield Step(f"job {number} ends", state.with_inserter(number, ended), Haste.AT_LEISURE)


INSERTER_STEPS: dict[InserterIs, Callable[[World, State, int], Steps]] = {
    InserterIs.OUTSIDE: begins,
    InserterIs.WRITING: inserts,
    InserterIs.INSERTED: ends,
    InserterIs.PREPARED: ends_prepared,
    InserterIs.UNLOCKED: appears,
    InserterIs.VISIBLE: releases,
    InserterIs.RELEASED: signals,
}


# Faults -------------------------------------------------------------------------------------------------------

Mishaps = Iterator[tuple[str, State]]


def restart(_: World, state: State) -> Mishaps:
    """A crash. Of what was written last to the gate something may be missing, and of the claims: they do not flush."""
    for gate in (False, True):
        for loses_claims in (False, True):
            after = State(
                gate,
                tuple(map(_disconnected, state.pools)),
                tuple(_crashed(inserter, loses_claims) for inserter in state.inserters),
                state.faults,
            )
            lost = ", claims are lost" if loses_claims else ""
            yield f"the server crashes, the gate is {_gate(gate)}{lost}", after


def _disconnected(pool: Pool) -> Pool:
    if pool.phase is PoolIs.GONE:
        return pool
    interrupted = {
        PoolIs.WRITING: PoolIs.OPENING,
        PoolIs.NOTING: PoolIs.OPENING,
        PoolIs.SHUTTING: PoolIs.SATURATED,
        PoolIs.LEAVING: PoolIs.GONE,
    }
    phase = interrupted.get(pool.phase, pool.phase)
    return pool._replace(phase=phase, must_note=False, hears=False, coming=Notice.NONE)


def _crashed(inserter: Inserter, loses_claims: bool) -> Inserter:
    """What is prepared outlives it, under another virtual transaction id: nobody who waited for it knows it again."""
    match inserter.phase:
        case InserterIs.OUTSIDE:
            return Inserter()
        case InserterIs.WRITING | InserterIs.INSERTED:
            return Inserter(phase=InserterIs.OVER)
        case InserterIs.PREPARED:
            return inserter._replace(passer_of=())
    if inserter.bell is Bell.BY_HAND and inserter.phase is not InserterIs.OVER:
        inserter = inserter._replace(phase=InserterIs.RELEASED, passer_of=())
    else:
        inserter = committed(inserter)
    if inserter.row is Row.RUNNING and loses_claims:
        return inserter._replace(row=Row.QUEUED, runs_in=-1)
    return inserter


def cut(_: World, state: State) -> Mishaps:
    for number, pool in enumerate(state.pools):
        if pool.hears and pool.phase is not PoolIs.GONE:
            deaf = pool._replace(hears=False, coming=Notice.NONE)
            yield f"pool {number}'s listening connection is cut", state.with_pool(number, deaf)


def death(world: World, state: State) -> Mishaps:
    """What it shut, its backend commits. Somebody requeues its jobs, in a transaction that rings as an INSERT does."""
    for number, pool in enumerate(state.pools):
        if pool.phase is PoolIs.GONE:
            continue
        after = state.with_pool(number, Pool(phase=PoolIs.GONE))
        if pool.phase in {PoolIs.SHUTTING, PoolIs.LEAVING}:
            after = with_notice(world, after, Notice.SHUT)
        for i, inserter in enumerate(state.inserters):
            left = inserter._replace(passer_of=_without(number, inserter.passer_of))
            after = after.with_inserter(i, Inserter() if inserter.runs_in == number else left)
        yield f"pool {number} dies", after


def hiccup(_: World, state: State) -> Mishaps:
    """A statement of an opening fails, and may have been carried out. The pool tries again."""
    for number, pool in enumerate(state.pools):
        again = state.with_pool(number, pool._replace(phase=PoolIs.OPENING, must_note=False))
        if pool.phase is PoolIs.WRITING:
            yield f"pool {number} opens the gate and is not told", again._replace(gate=True)
        if pool.phase is PoolIs.NOTING:
            yield f"pool {number} cannot note passers", again


def cut_off_shut(_: World, state: State) -> Mishaps:
    for number, pool in enumerate(state.pools):
        if pool.phase is PoolIs.SHUTTING:
            aborted = state.with_pool(number, pool._replace(phase=PoolIs.SATURATED))
            yield f"pool {number}'s shutting is aborted and rings nobody", aborted


def expiry(world: World, state: State) -> Mishaps:
    """The renewal of whoever believes in the gate came due long before."""
    if not world.rules.outlasts_its_sleepers:
        yield "the gate runs out", state._replace(gate=False)
    elif all(pool.phase in {PoolIs.SATURATED, PoolIs.GONE} for pool in state.pools):
        overdue = tuple(pool._replace(is_due=pool.has_opened) for pool in state.pools)
        yield "the gate runs out", state._replace(gate=False, pools=overdue)


FAULTS: dict[Fault, Callable[[World, State], Mishaps]] = {
    Fault.RESTART: restart,
    Fault.CUT: cut,
    Fault.DEATH: death,
    Fault.HICCUP: hiccup,
    Fault.CUT_OFF_SHUT: cut_off_shut,
    Fault.EXPIRY: expiry,
}


# Rest ---------------------------------------------------------------------------------------------------------


def is_lost(world: World, state: State) -> bool:
    """Of a state at rest: whether a job waits, and somebody could run it."""
    return any(inserter.row is Row.QUEUED for inserter in state.inserters) and any(
        pool.phase is PoolIs.ASLEEP and free_workers(world, state, number) for number, pool in enumerate(state.pools)
    )


def representative(state: State) -> State:
    """Of all states that differ only by how pools and inserters are numbered."""
    pools = tuple(sorted(state.pools))
    numberings = permutations(range(len(pools)))
    return min(
        _renumbered(state, order) for order in numberings if tuple(state.pools[number] for number in order) == pools
    )


def _renumbered(state: State, order: tuple[int, ...]) -> State:
    """With the pool at order[i] as pool i."""
    inserters = state.inserters
    if order != tuple(range(len(order))):
        new = {old: number for number, old in enumerate(order)} | {-1: -1}
        inserters = tuple(
            each._replace(runs_in=new[each.runs_in], passer_of=tuple(sorted(new[old] for old in each.passer_of)))
            for each in inserters
        )
    return State(state.gate, tuple(state.pools[number] for number in order), tuple(sorted(inserters)), state.faults)


def _jobs(numbers: Iterable[int]) -> str:
    return " and ".join(f"inserter {number}'s job" for number in numbers)


def _gate(is_open: bool) -> str:
    return "open" if is_open else "shut"
