"""A pool that runs nothing else: for jobs that have killed two processes, so that only the killer is charged a third.

One job at a time, and none before the outcome of the last is written: what is not written when the process dies would
be charged too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from uuid import uuid4

import anyio

from pushq.database.patience import trouble
from pushq.database.store import Claimant, Store
from pushq.errors import DatabaseAway, DatabaseRefused
from pushq.events import publish
from pushq.outcome import Kind, Outcome
from pushq.pool.attempt import Attempts
from pushq.pool.finisher import apart_delay, write_out
from pushq.pool.intake import Intake
from pushq.task import Tasks


async def run_suspects(
    claims: Store, outcomes: Store, claimant: Claimant, tasks: Tasks, attempts: Attempts, intake: Intake
) -> None:
    """Runs suspects until none is due, or until it is cancelled: then the one that runs is the last.

    A claim whose reply is lost ends it too. It is not taken back: it may be carried out late, beside another suspect.
    The supervisor releases what the pool still holds when it has ended.
    """
    while True:
        with anyio.CancelScope(shield=True):
            try:
                suspects = await claims.claim_suspect(claimant, uuid4())
            except (DatabaseAway, DatabaseRefused) as error:
                publish(trouble(error))
                return
            intake.busy = len(suspects)  # the supervisor starts another solo pool for the next suspect
            made = [await attempts.make(job, tasks.find(job.task)) for job in suspects]
            unwritten = await write_out(outcomes, made)
        await _write_again_and_again(outcomes, unwritten)
        if any(outcome.error_type and outcome.kind is Kind.RELEASED for outcome in made):
            await attempts.rest()
        intake.busy = 0
        if not suspects:
            return
        await anyio.lowlevel.checkpoint()


async def _write_again_and_again(outcomes: Store, unwritten: Sequence[Outcome]) -> None:
    """What the database undoes, as a trigger of somebody's may make it. A drain ends this."""
    for tries in count(1):
        if not unwritten:
            return
        await anyio.sleep(apart_delay(tries).total_seconds())
        with anyio.CancelScope(shield=True):
            unwritten = await write_out(outcomes, unwritten)
