"""Writes outcomes, in batches: whatever has gathered while the last batch was being written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from pushq.database.patience import wait_out
from pushq.database.store import Store
from pushq.errors import DatabaseAway, DatabaseRefused, ValueRefused
from pushq.events import JobsEnded, OutcomeRefused, publish
from pushq.outcome import Kind, Outcome
from pushq.pool.outbox import Outbox

_REFUSED = ValueRefused.__name__


async def finish(store: Store, outbox: Outbox) -> None:
    """Writes outcomes until there will be no more."""
    while batch := await outbox.batch():
        await write(store, batch)


async def write(store: Store, batch: Sequence[Outcome]) -> None:
    """Writes a batch, and says what became of each. Returns when it is stored, however long the database is away."""
    try:
        accepted = await _store(store, batch)
    except ValueRefused as error:
        await _write_apart(store, batch, error)
        return
    publish(JobsEnded([outcome for outcome in batch if outcome.job.id in accepted]))
    for outcome in batch if len(accepted) < len(batch) else ():
        if outcome.job.id not in accepted:
            publish(OutcomeRefused(outcome.job.id, outcome.job.task, outcome.kind))


async def _store(store: Store, batch: Sequence[Outcome]) -> set[UUID]:
    """The ids that were accepted. A finish whose reply was lost is repeated: what it had done counts as accepted."""
    try:
        return await store.finish(batch)
    except (DatabaseAway, DatabaseRefused):
        accepted = await wait_out(lambda: store.finish(batch))
        return accepted | await wait_out(lambda: store.finished_with_token(batch))


async def _write_apart(store: Store, batch: Sequence[Outcome], error: ValueRefused) -> None:
    """An outcome that the database refuses must not hold up the others: it becomes a failure that says so.

    Raises ValueRefused where it takes not even that.
    """
    if len(batch) > 1:
        for outcome in batch:
            await write(store, [outcome])
        return
    (outcome,) = batch
    if outcome.error_type == _REFUSED:
        raise error
    remark = f"{_REFUSED}: the work is done, but its outcome cannot be stored: {error}"
    await write(store, [replace(outcome, kind=Kind.FAILED, error=remark, result=None, error_type=_REFUSED)])
