"""Runs jobs, one after the other: from the intake, by an attempt, to the outbox."""

from __future__ import annotations

from typing import Any

from pushq.job import Job
from pushq.outcome import Kind, released
from pushq.pool.attempts import Attempts
from pushq.pool.intake import Intake
from pushq.pool.outbox import Outbox
from pushq.task import Task, Tasks


class Worker:
    """One of the N workers of a pool."""

    def __init__(self, tasks: Tasks, attempts: Attempts, intake: Intake, outbox: Outbox) -> None:
        self._tasks = tasks
        self._attempts = attempts
        self._intake = intake
        self._outbox = outbox

    async def run(self) -> None:
        """Runs jobs until the intake is closed and empty."""
        while job := self._intake.take_now() or await self._intake.take():
            task = self._tasks.find(job.task)
            if task.batch:
                await self._run_batch(job, task, task.batch)
                continue
            try:
                outcome = await self._attempts.make(job, task)
            except BaseException:
                self._outbox.put(released(job))
                raise
            self._outbox.put(outcome)
            if outcome.error_type and outcome.kind is Kind.RELEASED:
                await self._attempts.rest()
            self._intake.done()
            if self._outbox.is_full:
                await self._outbox.wait_room()

    async def _run_batch(self, first: Job, task: Task[..., Any], most: int) -> None:
        """Runs a job together with the jobs of its task that wait behind it."""
        jobs = [first, *self._intake.take_more(task.name, most - 1)]
        outcomes = [released(job) for job in jobs]
        try:
            outcomes = await self._attempts.make_batch(jobs, task)
        finally:
            for outcome in outcomes:
                self._outbox.put(outcome)
        if any(outcome.error_type and outcome.kind is Kind.RELEASED for outcome in outcomes):
            await self._attempts.rest()
        self._intake.done()
        if self._outbox.is_full:
            await self._outbox.wait_room()
