"""A solo pool runs suspects: jobs that have killed two processes. A third death is charged to the suspect alone.

One suspect runs at a time, and none before the outcome of the last is written: a job whose outcome is not written when
the process dies would be charged too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import anyio

from pushq.database.patience import is_rejection, trouble
from pushq.errors import DatabaseTrouble
from pushq.events import JobsPassedOver, publish
from pushq.job import Job
from pushq.outcome import Outcome
from pushq.pool.attempts import Attempts
from pushq.pool.finisher import apart_delay, write_out
from pushq.pool.intake import Intake
from pushq.pool.store import Claimant, Store
from pushq.task import Task, Tasks

MOST_PASSED_OVER = 100
"""Suspects that cannot be claimed, in the life of a solo pool. After that many, the pool ends."""


async def run_suspects(
    claims: Store, outcomes: Store, claimant: Claimant, tasks: Tasks, attempts: Attempts, intake: Intake
) -> None:
    """Runs suspects until none is due. When cancelled, ends with the suspect that is running.

    A claim whose reply is lost ends the pool too, since such a claim may be carried out late, beside another suspect.
    After the end, the supervisor releases all jobs that the pool still holds.
    """
    passed_over: list[UUID] = []
    while True:
        with anyio.CancelScope(shield=True):
            try:
                suspects = await _claim(claims, claimant, passed_over)
            except DatabaseTrouble as error:
                publish(trouble(error))
                return
            intake.busy = len(suspects)  # the supervisor starts another solo pool for the next suspect
            made = [outcome for job in suspects for outcome in await _make(attempts, job, tasks.find(job.task))]
            unwritten = await write_out(outcomes, [outcome for outcome in made if not outcome.is_written])
        await _write_again_and_again(outcomes, unwritten)
        if any(outcome.is_unbegun for outcome in made):
            await attempts.rest()
        intake.busy = 0
        if not suspects:
            return
        await anyio.lowlevel.checkpoint()


async def _make(attempts: Attempts, job: Job, task: Task[..., Any]) -> list[Outcome]:
    """A suspect runs alone, also if the handler takes batches."""
    return await attempts.make_batch([job], task) if task.batch else [await attempts.make(job, task)]


async def _claim(claims: Store, claimant: Claimant, passed_over: list[UUID]) -> list[Job]:
    """Claims a suspect, if one is due. A suspect that cannot be claimed is passed over for the life of the pool."""
    while True:
        try:
            return await claims.claim_suspect(claimant, uuid4(), passed_over)
        except DatabaseTrouble as error:
            if not is_rejection(error) or len(passed_over) >= MOST_PASSED_OVER:
                raise
            found = await claims.next_suspect(claimant, passed_over)
            if not found:
                raise
            publish(JobsPassedOver(len(passed_over) + 1, str(error)))
            passed_over += found


async def _write_again_and_again(outcomes: Store, unwritten: Sequence[Outcome]) -> None:
    """Tries until the outcomes are stored, or a drain is ordered: a user's trigger may roll back each write."""
    for tries in count(1):
        if not unwritten:
            return
        await anyio.sleep(apart_delay(tries).total_seconds())
        with anyio.CancelScope(shield=True):
            unwritten = await write_out(outcomes, unwritten)
