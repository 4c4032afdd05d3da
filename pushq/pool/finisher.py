"""Writes outcomes, in batches: whatever has gathered while the last batch was being written.

A row that somebody else has locked, in a transaction that is open, holds up its own outcome and no other: that is put
aside, and written when its row is free. The finisher gives up waiting before the server would look for a deadlock, so
that nobody who locks several rows becomes its victim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import anyio

from pushq.database.patience import wait_out
from pushq.database.store import Fence, Store
from pushq.errors import DatabaseAway, DatabaseRefused, StatementUndone, ValueRefused
from pushq.events import DatabaseLost, JobsEnded, OutcomeRefused, OutcomesHeldUp, publish
from pushq.outcome import Kind, Outcome
from pushq.pool.outbox import Outbox

LOCK_WAIT = "500ms"
"""For which a batch waits for locks; the server looks for deadlocks after a second."""
LOCKED_AGAIN = 0.5
"""Seconds until what was locked is tried again."""

_REFUSED = ValueRefused.__name__


async def finish(store: Store, outbox: Outbox) -> None:
    """Writes outcomes until there will be no more."""
    async with anyio.create_task_group() as aside:
        while batch := await outbox.batch():
            if locked := await write(store, batch):
                aside.start_soon(_write_when_unlocked, store, locked)


async def write_out(store: Store, batch: Sequence[Outcome]) -> None:
    """Writes a batch, also what is locked."""
    if locked := await write(store, batch):
        await _write_when_unlocked(store, locked)


async def write(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
    """Writes a batch, and says what became of each. Returns when it is stored, however long the database is away.

    What it returns is not stored: somebody else has locked those rows.
    """
    try:
        accepted = await _store(store, batch)
    except ValueRefused as error:
        return await _write_apart(store, batch, error)
    except StatementUndone:
        return await wait_out(partial(_write_what_is_free, store, batch), longest=LOCKED_AGAIN)
    except (DatabaseAway, DatabaseRefused) as error:
        publish(DatabaseLost(str(error)))
        return await wait_out(partial(_write_what_is_free, store, batch))
    _tell(batch, accepted)
    return []


async def _store(store: Store, batch: Sequence[Outcome]) -> set[Fence]:
    """The claims whose outcomes were accepted."""
    return await store.finish(batch)


async def _write_what_is_free(store: Store, batch: Sequence[Outcome]) -> list[Outcome]:
    """The others, whose rows are locked. Where it is a table that somebody has locked, StatementUndone is raised.

    A finish whose reply was lost is repeated: what it had done counts as accepted.
    """
    locked = await store.locked(batch)
    free = [outcome for outcome in batch if outcome.job.id not in locked]
    rest = [outcome for outcome in batch if outcome.job.id in locked]
    if free:
        try:
            accepted = await store.finish(free)
            if len(accepted) < len(free):
                accepted |= await wait_out(lambda: store.finished_with_token(free))
        except ValueRefused as error:
            return rest + await _write_apart(store, free, error)
        _tell(free, accepted)
    return rest


async def _write_when_unlocked(store: Store, locked: Sequence[Outcome]) -> None:
    publish(OutcomesHeldUp(len(locked)))
    while locked:
        await anyio.sleep(LOCKED_AGAIN)
        locked = await wait_out(partial(_write_what_is_free, store, locked), longest=LOCKED_AGAIN)


async def _write_apart(store: Store, batch: Sequence[Outcome], error: ValueRefused) -> list[Outcome]:
    """An outcome that the database refuses must not hold up the others: it becomes a failure that says so.

    Raises ValueRefused where it takes not even that.
    """
    if len(batch) > 1:
        return [locked for outcome in batch for locked in await write(store, [outcome])]
    (outcome,) = batch
    if outcome.error_type == _REFUSED:
        raise error
    remark = f"{_REFUSED}: the work is done, but its outcome cannot be stored: {error}"
    return await write(store, [replace(outcome, kind=Kind.FAILED, error=remark, result=None, error_type=_REFUSED)])


def _tell(batch: Sequence[Outcome], accepted: set[Fence]) -> None:
    publish(JobsEnded([outcome for outcome in batch if outcome.job.fence in accepted]))
    for outcome in batch if len(accepted) < len(batch) else ():
        if outcome.job.fence not in accepted:
            publish(OutcomeRefused(outcome.job.id, outcome.job.task, outcome.kind))
