"""Writes outcomes in batches: a batch is all that has gathered while the previous batch was written.

A row locked by another transaction holds up the row's own outcome, and no other: the outcome is written when the row is
free. The finisher stops waiting for a lock before the server would look for deadlocks. So no transaction that locks
several rows is ever rolled back as the victim of a deadlock with a batch.

A row may also be at fault for a write that the database rolls back: a user's trigger raises, say. The batch is then put
aside, and written in ever smaller pieces on another connection. All outcomes but the one at fault are stored soon. The
outcome at fault is tried less and less often, until it is stored or the pool drains. To find out whether a row is at
fault, the finisher writes an empty batch: if even that is rolled back, no row is.
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
from pushq.outcome import BY_HAND, Kind, Outcome
from pushq.pool.outbox import Outbox
from pushq.pool.store import Store

LOCK_WAIT = "500ms"
"""How long a batch waits for locks. The server looks for deadlocks after a second."""
LOCKED_AGAIN = 0.5
"""Seconds until locked outcomes are tried again."""
PATIENCE = 10.0
"""Seconds after which even a trouble that should pass counts as the fault of a row."""
SKIPPED = "the write left the row unchanged, as a user's trigger may"

apart_delay = exponential(timedelta(seconds=0.5), longest=timedelta(seconds=30))
"""How long until an outcome at fault is tried again."""


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Outcomes of a batch that are not stored: locked by other sessions, or undone because of at least one row."""

    locked: Sequence[Outcome] = ()
    undone: Sequence[Outcome] = ()


async def finish(store: Store, apart: Store, outbox: Outbox) -> list[Outcome]:
    """Writes outcomes until the outbox is closed and empty. Returns outcomes that could not be stored in the end.

    apart: on a connection that is opened at its first use.
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
    """Writes a batch, locked rows too. Returns outcomes that could not be stored."""
    outbox = Outbox()
    for outcome in batch:
        outbox.put(outcome)
    outbox.close()
    return await finish(store, store, outbox)


async def write(store: Store, batch: Sequence[Outcome]) -> Unwritten:
    """Writes a batch, and publishes the results. Waits the database out."""
    began = anyio.current_time()
    try:
        refused = await store.finish(batch)
        undone = await _undone(store, refused)
    except DatabaseTrouble as error:
        if await _is_a_row_s_fault(store, error, began):
            return Unwritten(undone=batch)
        if type(error) is StatementRolledBack:
            return await wait_out(partial(_write_what_is_free, store, batch, began), longest=LOCKED_AGAIN)
        publish(trouble(error))
        return await wait_out(partial(_write_what_is_free, store, batch, began))
    _tell(batch, refused, undone)
    return Unwritten(undone=undone)


async def _undone(store: Store, refused: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes that were refused, although their claims hold."""
    held = await store.still_held(refused) if refused else set()
    return [outcome for outcome in refused if outcome.job.fence in held]


async def _is_a_row_s_fault(store: Store, error: DatabaseTrouble, began: float) -> bool:
    """Whether a row made the write fail, which was tried since `began`. If not, any write would fail now."""
    if not error.state or not (is_rejection(error) or anyio.current_time() - began > PATIENCE):
        return False
    try:
        await store.finish([])
    except DatabaseTrouble:
        return False
    return True


async def _write_what_is_free(store: Store, batch: Sequence[Outcome], began: float) -> Unwritten:
    """Writes the outcomes whose rows nobody has locked. Raises StatementRolledBack if a whole table is locked.

    If the reply to a finish was lost, the finish is repeated, and outcomes stored the first time count as accepted.
    """
    locked_ids = await store.locked_by_others(batch)
    locked = [outcome for outcome in batch if outcome.job.id in locked_ids]
    free = [outcome for outcome in batch if outcome.job.id not in locked_ids]
    if not free:
        return Unwritten(locked)
    try:
        return Unwritten(locked, await _write_again(store, free))
    except DatabaseTrouble as error:
        if not await _is_a_row_s_fault(store, error, began):
            raise
        return Unwritten(locked, free)


async def _write_again(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
    """Writes outcomes that may have been stored before. Returns outcomes not accepted, although their claims hold."""
    refused = await store.finish(batch)
    if refused:
        stored = await wait_out(lambda: store.finished_with_token(refused))
        refused = [outcome for outcome in refused if outcome.job.fence not in stored]
    undone = await wait_out(lambda: _undone(store, refused))
    _tell(batch, refused, undone)
    return undone


async def _write_when_unlocked(store: Store, aside: Aside, locked: Sequence[Outcome]) -> None:
    publish(OutcomesHeldUp(len(locked)))
    while locked:
        await anyio.sleep(LOCKED_AGAIN)
        began = anyio.current_time()
        unwritten = await wait_out(partial(_write_what_is_free, store, locked, began), longest=LOCKED_AGAIN)
        aside.put(unwritten.undone)
        locked = unwritten.locked


def _tell(batch: Sequence[Outcome], refused: Sequence[Outcome], undone: Sequence[Outcome]) -> None:
    publish(JobsEnded(_without(refused, batch)))
    for outcome in _without(undone, refused):
        if outcome.error_type is not BY_HAND:  # the hand that cancelled the job has ended the row
            publish(OutcomeRefused(outcome.job.id, outcome.job.task, outcome.kind))


def _without(some: Sequence[Outcome], outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    if not some:
        return outcomes
    left_out = {id(outcome) for outcome in some}
    return [outcome for outcome in outcomes if id(outcome) not in left_out]


@dataclass(slots=True, eq=False)
class _Held:
    outcome: Outcome
    tries: int = 0
    due_at: float = 0.0
    is_settled: bool = False


class Aside:
    """Outcomes that could not be stored, at least one by its own fault. Their jobs stay claimed under their tokens."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._store = store
        self._outbox = outbox
        self._held: list[_Held] = []
        self._changed = anyio.Event()
        self._is_closed = False

    def put(self, outcomes: Sequence[Outcome]) -> None:
        # Without the payloads: these may be large, and are not needed any more.
        self._held += [_Held(replace(one, job=one.job._replace(payload=None))) for one in outcomes]
        self._note()

    def close(self) -> None:
        """Ends the tries: each outcome is tried once more."""
        self._is_closed = True
        self._note()

    @property
    def left(self) -> list[Outcome]:
        return [one.outcome for one in self._held]

    async def run(self) -> None:
        """Tries until closed, then once more. The supervisor releases the jobs whose outcomes are left."""
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
        """Waits until the database answers. Raises if the answer is a rollback."""
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
    """Replaces an outcome whose error or result cannot be stored. A success becomes a failure that says so."""
    kind, remark = outcome.kind, f"its outcome cannot be stored: {error}"
    if kind is Kind.SUCCEEDED:
        kind, remark = Kind.FAILED, f"the work is done, but {remark}"
    name = ValueRefused.__name__
    return replace(outcome, kind=kind, error=f"{name}: {remark}", result=None, traceback=None, error_type=name)
