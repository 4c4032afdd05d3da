"""Writes outcomes, in batches: whatever has gathered while the last batch was being written.

A row that somebody else has locked, in a transaction that is open, holds up its own outcome and no other: that is put
aside, and written when its row is free. The finisher gives up waiting before the server would look for a deadlock, so
that nobody who locks several rows becomes its victim.

What the database undoes for a reason that is in some row, a trigger of somebody's that raises, say, is put aside too,
and tried on a connection of its own, with ever fewer others: the others are written at once, and the one again and
again, less and less often, until it is written, or the pool drains. Whether the reason is in a row is asked by writing
nothing: if even that is undone, it is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from math import inf

import anyio

from pushq.backoff import exponential
from pushq.database.patience import is_no_answer, is_rejection, piecewise, trouble, wait_out
from pushq.errors import DatabaseTrouble, StatementRolledBack, ValueRefused
from pushq.events import JobsEnded, OutcomeRefused, OutcomesHeldUp, OutcomesPutAside, publish
from pushq.outcome import Kind, Outcome
from pushq.pool.outbox import Outbox
from pushq.pool.store import Fence, Store

LOCK_WAIT = "500ms"
"""For which a batch waits for locks; the server looks for deadlocks after a second."""
LOCKED_AGAIN = 0.5
"""Seconds until what was locked is tried again."""
PATIENCE = 10.0
"""Seconds after which also what should pass, and goes on, is taken for the fault of some row."""
SKIPPED = "the row stays as it is, as where a trigger of somebody's skips it"

apart_delay = exponential(timedelta(seconds=0.5), longest=timedelta(seconds=30))
"""Until an outcome that the database undoes by itself alone is tried again."""


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Outcomes of a batch that are not stored: those whose rows are locked, and those of which one is undone."""

    locked: Sequence[Outcome] = ()
    undone: Sequence[Outcome] = ()


async def finish(store: Store, apart: Store, outbox: Outbox) -> list[Outcome]:
    """Writes outcomes until there will be no more. Returns what the database undoes to the last.

    apart: on a connection that is opened when it is first needed.
    """
    aside = Aside(apart, outbox)
    async with anyio.create_task_group() as around:
        around.start_soon(aside.run)
        async with anyio.create_task_group() as group:
            while batch := await outbox.batch():
                unwritten = await write(store, batch)
                aside.put(unwritten.undone)
                if unwritten.locked:
                    group.start_soon(_write_when_unlocked, store, aside, unwritten.locked)
        aside.close()
    return aside.left


async def write_out(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
    """Writes a batch, also what is locked. Returns what the database undoes."""
    outbox = Outbox()
    for outcome in batch:
        outbox.put(outcome)
    outbox.close()
    return await finish(store, store, outbox)


async def write(store: Store, batch: Sequence[Outcome]) -> Unwritten:
    """Writes a batch, and says what became of each. Returns when it is stored, however long the database is away."""
    began = anyio.current_time()
    try:
        accepted = await store.finish(batch)
        undone = await _undone(store, batch, accepted)
    except DatabaseTrouble as error:
        if await _is_in_a_row(store, error, began):
            return Unwritten(undone=batch)
        if type(error) is StatementRolledBack:
            return await wait_out(partial(_write_what_is_free, store, batch, began), longest=LOCKED_AGAIN)
        publish(trouble(error))
        return await wait_out(partial(_write_what_is_free, store, batch, began))
    _tell(batch, accepted, undone)
    return Unwritten(undone=undone)


async def _undone(store: Store, batch: Sequence[Outcome], accepted: set[Fence]) -> list[Outcome]:
    """Those that were not accepted though their claims hold."""
    if len(accepted) == len(batch):
        return []
    held = await store.still_held([outcome for outcome in batch if outcome.job.fence not in accepted])
    return [outcome for outcome in batch if outcome.job.fence in held]


async def _is_in_a_row(store: Store, error: DatabaseTrouble, began: float) -> bool:
    """Whether some row is at fault for what has been tried since `began`, rather than what is the same for all."""
    if not error.state or not (is_rejection(error) or anyio.current_time() - began > PATIENCE):
        return False
    try:
        await store.finish([])
    except DatabaseTrouble:
        return False
    return True


async def _write_what_is_free(store: Store, batch: Sequence[Outcome], began: float) -> Unwritten:
    """The others, whose rows are locked. Where it is a table that somebody has locked, StatementRolledBack is raised.

    A finish whose reply was lost is repeated: what it had done counts as accepted.
    """
    locked_ids = await store.locked_by_others(batch)
    locked = [outcome for outcome in batch if outcome.job.id in locked_ids]
    free = [outcome for outcome in batch if outcome.job.id not in locked_ids]
    if not free:
        return Unwritten(locked)
    try:
        return Unwritten(locked, await _write_again(store, free))
    except DatabaseTrouble as error:
        if not await _is_in_a_row(store, error, began):
            raise
        return Unwritten(locked, free)


async def _write_again(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
    """What may have been written before. Returns what was not, though its claim holds."""
    accepted = await store.finish(batch)
    if len(accepted) < len(batch):
        accepted |= await wait_out(lambda: store.finished_with_token(batch))
    undone = await wait_out(lambda: _undone(store, batch, accepted))
    _tell(batch, accepted, undone)
    return undone


async def _write_when_unlocked(store: Store, aside: Aside, locked: Sequence[Outcome]) -> None:
    publish(OutcomesHeldUp(len(locked)))
    while locked:
        await anyio.sleep(LOCKED_AGAIN)
        began = anyio.current_time()
        unwritten = await wait_out(partial(_write_what_is_free, store, locked, began), longest=LOCKED_AGAIN)
        aside.put(unwritten.undone)
        locked = unwritten.locked


def _tell(batch: Sequence[Outcome], accepted: set[Fence], undone: Sequence[Outcome]) -> None:
    publish(JobsEnded([outcome for outcome in batch if outcome.job.fence in accepted]))
    if len(accepted) + len(undone) == len(batch):
        return
    settled = accepted | {outcome.job.fence for outcome in undone}
    for outcome in batch:
        if outcome.job.fence not in settled:
            publish(OutcomeRefused(outcome.job.id, outcome.job.task, outcome.kind))


@dataclass(slots=True, eq=False)
class _Held:
    outcome: Outcome
    tries: int = 0
    due_at: float = 0.0
    is_settled: bool = False


class Aside:
    """Outcomes of which the database undoes at least one. Their jobs run on under their tokens, and nobody else's."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._store = store
        self._outbox = outbox
        self._held: list[_Held] = []
        self._changed = anyio.Event()
        self._is_closed = False

    def put(self, outcomes: Sequence[Outcome]) -> None:
        # Without their payloads, which may be large: nobody needs them any more.
        self._held += [_Held(replace(one, job=one.job._replace(payload=None))) for one in outcomes]
        self._note()

    def close(self) -> None:
        """There will be no more."""
        self._is_closed = True
        self._note()

    @property
    def left(self) -> list[Outcome]:
        return [one.outcome for one in self._held]

    async def run(self) -> None:
        """Tries until it is closed; then once more. What is left is for whoever takes the pool's jobs from it."""
        while not self._is_closed:
            next_at = min((one.due_at for one in self._held), default=inf)
            with anyio.move_on_after(next_at - anyio.current_time()):
                await self._changed.wait()
            await self._try([one for one in self._held if one.due_at <= anyio.current_time()])
        await self._try(self._held)

    def _note(self) -> None:
        self._outbox.note_aside(len(self._held), sum(outcome.size for outcome in self.left))
        self._changed.set()
        self._changed = anyio.Event()

    async def _try(self, due: Sequence[_Held]) -> None:
        if not due:
            return
        faults = await piecewise(self._write, due, unless=is_no_answer)
        reason = faults[0][1] if faults else SKIPPED
        self._held = [one for one in self._held if not one.is_settled]
        for one in due:
            one.tries += 1
            one.due_at = anyio.current_time() + apart_delay(one.tries).total_seconds()
        if any(not one.is_settled for one in due):
            publish(OutcomesPutAside(len(self._held), reason))
        self._note()

    async def _write(self, piece: Sequence[_Held]) -> None:
        """Waits until the database answers, and raises what it says."""
        batch = [one.outcome for one in piece]
        try:
            undone = await self._write_batch(batch)
        except ValueRefused as error:
            if len(batch) > 1 or not batch[0].size:
                raise
            undone = await self._write_batch([_without_its_value(batch[0], error)])
        unwritten = {outcome.job.fence for outcome in undone}
        for one in piece:
            one.is_settled = one.outcome.job.fence not in unwritten

    async def _write_batch(self, batch: Sequence[Outcome]) -> list[Outcome]:
        return await wait_out(partial(_write_again, self._store, batch), unless=lambda error: bool(error.state))


def _without_its_value(outcome: Outcome, error: ValueRefused) -> Outcome:
    """What is stored in place of an outcome whose error or result cannot be: of a success, a failure that says so."""
    kind, remark = outcome.kind, f"its outcome cannot be stored: {error}"
    if kind is Kind.SUCCEEDED:
        kind, remark = Kind.FAILED, f"the work is done, but {remark}"
    name = ValueRefused.__name__
    return replace(outcome, kind=kind, error=f"{name}: {remark}", result=None, traceback=None, error_type=name)
