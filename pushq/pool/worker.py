"""Runs jobs, one after the other: from the intake, by an attempt, to the outbox."""

from __future__ import annotations

from pushq.job import Job
from pushq.outcome import Outcome, released
from pushq.pool.attempts import Attempts
from pushq.pool.intake import Intake
from pushq.pool.lanes import Lanes
from pushq.pool.outbox import Outbox
from pushq.pool.recalls import end_recalled, end_unbegun
from pushq.recalled import recalled
from pushq.task import Tasks


class Worker:
    """One of the N workers of a pool."""

    def __init__(self, tasks: Tasks, attempts: Attempts, intake: Intake, outbox: Outbox, lanes: Lanes) -> None:
        self._tasks = tasks
        self._attempts = attempts
        self._intake = intake
        self._outbox = outbox
        self._lanes = lanes
        self._seat = intake.seats.new()

    async def run(self) -> None:
        """Takes loads until the intake is closed and empty."""
        while load := self._intake.take_now(self._seat) or await self._intake.take(self._seat):
            if isinstance(load, list):
                await self._run_batch(load)
                continue
            if recalled and load.fence in recalled:
                self._outbox.put(end_unbegun(load))
                self._intake.done()
                continue
            outcome = await self._make(self._seat.sit(load) if load.extras else load)
            if not outcome.is_written:
                self._outbox.put(outcome)
                if load.extras:
                    self._lanes.end(outcome)
            if outcome.error_type and outcome.is_unbegun:  # a property costs a call, and most have no error
                await self._attempts.rest()
            self._intake.done()
            if self._outbox.is_full:
                await self._outbox.wait_room()

    def _sit_all(self, jobs: list[Job]) -> list[Job]:
        """A batch has one affinity."""
        first = self._seat.sit(jobs[0])
        return [first] + [job.with_changed_affinity() if first.affinity_changed else job for job in jobs[1:]]

    async def _make(self, job: Job) -> Outcome:
        try:
            outcome = await self._attempts.make(job, self._tasks.find(job.task))
        except BaseException:
            self._outbox.put(released(job))
            raise
        if not recalled or job.fence not in recalled:
            return outcome
        if outcome.is_written:
            recalled.discard(job.fence)
            return outcome
        return end_recalled(outcome)

    async def _run_batch(self, jobs: list[Job]) -> None:
        if jobs[0].extras:
            jobs = self._sit_all(jobs)
        rest = [job for job in jobs if job.fence not in recalled] if recalled else jobs
        outcomes = [end_unbegun(job) for job in jobs if job.fence in recalled] if recalled else []
        made = [released(job) for job in rest]
        try:
            made = await self._attempts.make_batch(rest, self._tasks.find(jobs[0].task))
        finally:
            outcomes += [end_recalled(one) if one.job.fence in recalled else one for one in made]
            for outcome in outcomes:
                self._outbox.put(outcome)
        if any(outcome.is_unbegun for outcome in outcomes):
            await self._attempts.rest()
        self._intake.done()
        if self._outbox.is_full:
            await self._outbox.wait_room()
