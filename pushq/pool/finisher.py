"""Writes outcomes, in batches: whatever has gathered while the last batch was being written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from pushq.database.patience import wait_out
from pushq.database.store import Store
from pushq.errors import DatabaseAway, DatabaseRefused, ValueRefused
from pushq.events import JobEnded, OutcomeRefused, publish
from pushq.outcome import Kind, Outcome

LARGEST_BATCH = 500
LARGEST_BATCH_TEXT = 8 * 1024 * 1024
"""Characters of results and errors in a batch, more or less: memory is bounded whatever handlers return."""


async def finish(store: Store, outcomes: MemoryObjectReceiveStream[Outcome]) -> None:
    """Writes outcomes until their stream ends."""
    with outcomes:
        async for first in outcomes:
            await write(store, _gather(first, outcomes))


def _gather(first: Outcome, outcomes: MemoryObjectReceiveStream[Outcome]) -> list[Outcome]:
    batch, text = [first], _text(first)
    while len(batch) < LARGEST_BATCH and text < LARGEST_BATCH_TEXT:
        try:
            outcome = outcomes.receive_nowait()
        except (anyio.WouldBlock, anyio.EndOfStream):
            break
        batch.append(outcome)
        text += _text(outcome)
    return batch


def _text(outcome: Outcome) -> int:
    return len(outcome.result or "") + len(outcome.error or "")


async def write(store: Store, batch: Sequence[Outcome]) -> None:
    """Writes a batch, and says what became of each. Returns when it is stored, however long the database is away."""
    try:
        accepted = await _store(store, batch)
    except ValueRefused as error:
        await _write_apart(store, batch, error)
        return
    for outcome in batch:
        publish(_ended(outcome) if outcome.job.id in accepted else _refused(outcome))


async def _store(store: Store, batch: Sequence[Outcome]) -> set[UUID]:
    """The ids that were accepted. A finish whose reply was lost is repeated: what it had done counts as accepted."""
    try:
        return await store.finish(batch)
    except (DatabaseAway, DatabaseRefused):
        accepted = await wait_out(lambda: store.finish(batch))
        return accepted | await wait_out(lambda: store.finished_with_token(batch))


async def _write_apart(store: Store, batch: Sequence[Outcome], error: ValueRefused) -> None:
    """An outcome that the database refuses must not hold up the others: it becomes a failure that says so."""
    if len(batch) > 1:
        for outcome in batch:
            await write(store, [outcome])
        return
    (outcome,) = batch
    remark = f"ValueRefused: the work is done, but its outcome cannot be stored: {error}"
    await write(store, [replace(outcome, kind=Kind.FAILED, error=remark, result=None, error_type="ValueRefused")])


def _ended(outcome: Outcome) -> JobEnded:
    job = outcome.job
    return JobEnded(job.id, job.task, job.queue, job.attempt, outcome.kind.value, outcome.seconds, outcome.error_type)


def _refused(outcome: Outcome) -> OutcomeRefused:
    return OutcomeRefused(outcome.job.id, outcome.job.task, outcome.kind.value)
