"""Takes due jobs for the free workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from time import monotonic
from uuid import UUID, uuid4

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from pushq.database.patience import Outage, is_rejection, piecewise, reconnect_delay, trouble
from pushq.errors import DatabaseTrouble, StatementRolledBack, UnexpectedState
from pushq.events import JobsClaimed, JobsPassedOver, publish
from pushq.job import Job
from pushq.pool.attention import Attention
from pushq.pool.doorbell import Doorbell
from pushq.pool.gate import Gate
from pushq.pool.intake import Intake
from pushq.pool.lanes import Lanes, held_by
from pushq.pool.loads import Loads
from pushq.pool.lookback import Lookback
from pushq.pool.outbox import Outbox
from pushq.pool.passed_over import PassedOver
from pushq.pool.recalls import given_back
from pushq.pool.shares import Shares
from pushq.pool.sleeper import LINGER, Sleeper
from pushq.pool.store import Claimant, Store, Terms

OVERDUE = 0.25
"""Seconds after which claimed jobs that no worker has begun are given back."""
ROLLED_BACK = 5
"""Claims in a row, rolled back for a passing reason, before jobs are claimed apart. For one job the reason may last: a
lock for which a user's trigger waits, say."""
IN_VAIN = 4
"""Claims in vain, while a job is due, before jobs are claimed apart: a user's trigger may skip the job."""
SKIPPED = "the claim left the row unchanged, as a user's trigger may"


class Claimer:
    """Claims for a pool. gate: None if the pool only polls. poll_interval: in seconds, 0: never."""

    def __init__(
        self,
        store: Store,
        claimant: Claimant,
        *,
        loads: Loads,
        intake: Intake,
        outbox: Outbox,
        doorbell: Doorbell,
        gate: Gate | None,
        poll_interval: float,
        lanes: Lanes,
    ) -> None:
        self._store = store
        self._claimant = claimant
        self._loads = loads
        self._intake = intake
        self._outbox = outbox
        self._gate = gate
        self._lanes = lanes
        self._lanes_first = False
        self._shares = Shares(claimant.queues)
        self._in_doubt = lanes.in_doubt
        self._passed_over = PassedOver()
        self._lookback = Lookback()
        self._outage = Outage()
        self._failures = 0  # how many claims in a row the database has refused
        self._saturated_since: float | None = None  # since when claims have come back full
        self._sleeper = Sleeper(
            store,
            claimant,
            Attention(doorbell),
            gate,
            poll_interval,
            lookback=self._lookback,
            passed_over=self._passed_over,
            in_doubt=self._in_doubt,
            outage=self._outage,
        )

    async def run(self) -> None:
        """Claims until cancelled. Then closes the workers' intake."""
        try:
            while True:
                await self._wait_for_room()
                await checkpoint_if_cancelled()  # the one place that surely heeds a cancellation: a claim is shielded
                if await self._claim():
                    if self._saturated_since is None:
                        await self._sleeper.let_jobs_gather()
                    continue
                if self._failures:
                    await anyio.sleep(reconnect_delay(self._failures).total_seconds())
                else:
                    await self._sleeper.wait()
        finally:
            self._give_back()
            self._intake.close()
            await self._leave()

    async def _wait_for_room(self) -> None:
        """Waits until workers need jobs. If all workers stay busy, the gate is shut: inserters may skip the bell.

        While outcomes cannot be written, no jobs are needed: more would only be held up here. A pool that needs no jobs
        lets others look for units that it has given back.
        """
        if not self._intake.room:
            await self._pay(self._lanes.owed)
        if self._gate and not self._gate.is_shut and self._saturated_since is not None:
            with anyio.move_on_after(self._saturated_since + LINGER - anyio.current_time()):
                await self._intake.wait_room()
            if anyio.current_time() >= self._saturated_since + LINGER:
                await self._shut(self._gate)
        while self._outbox.is_full or not self._intake.room:
            if self._outbox.is_full:
                await self._outbox.wait_room()
                self._intake.restart_waits()
            with anyio.move_on_after(OVERDUE):
                await self._intake.wait_room()
            if not self._intake.room:
                await self._pay(self._lanes.owed)  # where the first try has failed
            if self._intake.longest_wait > OVERDUE and not self._outbox.is_full:
                self._give_back()

    async def _shut(self, gate: Gate) -> None:
        """Tries until the gate is shut, or until workers need jobs: workers must not wait for the gate."""
        for failures in count(1):
            try:
                await gate.shut()
            except DatabaseTrouble as error:
                publish(trouble(error))
            else:
                return
            with anyio.move_on_after(reconnect_delay(failures).total_seconds()):
                await self._intake.wait_room()
                return

    def _give_back(self) -> None:
        for job in self._intake.give_back():
            self._outbox.put(given_back(job))

    async def _leave(self) -> None:
        """Shuts the gate: a pool that ends is not idle, and inserters need not ring. Others look for given units."""
        with anyio.move_on_after(1, shield=True), suppress(DatabaseTrouble):
            await self._pay(self._lanes.owed)
            if self._gate:
                await self._gate.shut()

    async def _claim(self) -> int:
        """Puts jobs into the intake. Returns how many."""
        room, owed = self._intake.room, self._lanes.owed.copy()
        # Shielded: a claim cancelled half-way may have taken jobs, and nobody would run them.
        with anyio.CancelScope(shield=True):
            # Rows may make a claim too slow. So after each failure fewer jobs are claimed, at last one alone.
            taken_back = await self._in_doubt.take_back()
            jobs = taken_back or await self._take(max(1, room >> self._failures))
            is_full = len(jobs) >= room
            if is_full:
                await self._fill_batches(jobs)
        self._put(jobs, is_full=is_full)
        if not taken_back and not self._failures:
            await self._pay(owed, jobs)
        if jobs:
            publish(JobsClaimed(len(jobs)))
            self._sleeper.note_jobs(len(jobs))
        if not jobs and not self._failures:
            self._intake.renew_turns()
        if not is_full:
            self._saturated_since = None
        elif self._saturated_since is None:
            self._saturated_since = anyio.current_time()
        return len(jobs)

    async def _pay(self, owed: Counter[str | None], taken: Sequence[Job] = ()) -> None:
        """A look for units that were given back is done. Unless jobs of the same lanes were taken, others are rung."""
        if not owed:
            return
        paid = owed.copy()
        if paid - held_by(taken):
            try:
                await self._store.ring_for_units()
            except DatabaseTrouble as error:
                self._failures += 1  # so the claimer looks again, and rings again
                self._outage.note(error)
                return
        self._lanes.owed -= paid

    def _put(self, jobs: list[Job], *, is_full: bool) -> None:
        special = [job for job in jobs if job.extras]
        in_lanes = [job for job in special if job.lane]
        if in_lanes:
            self._lanes.begin(in_lanes)
            self._intake.put_first(self._loads.of(in_lanes))
            held = {job.fence for job in in_lanes}
            jobs = [job for job in jobs if job.fence not in held]
        if fair := [job for job in special if job.share]:
            self._shares.note(fair)
        self._intake.put(self._loads.of(jobs), is_full=is_full)

    async def _fill_batches(self, jobs: list[Job]) -> None:
        """Adds to the claimed jobs what their batches have room for. Jobs in trouble are left to the next claim."""
        for task, room in self._loads.wanted(jobs).items():
            token, span = uuid4(), self._lookback.span
            claimant = replace(self._claimant, tasks=(task,))
            try:
                jobs += await self._store.claim(claimant, token, room, span.since, span.until)
            except DatabaseTrouble as error:
                if not error.state:
                    self._in_doubt.note(token)
                return

    async def _take(self, limit: int) -> list[Job]:
        jobs = await self._look(limit)
        if not jobs and self._lookback.was_at_the_past:
            jobs = await self._look(limit)  # an empty past says nothing of new jobs
        return jobs

    async def _look(self, limit: int) -> list[Job]:
        jobs: list[Job] = []
        try:
            if self._passed_over or self._is_skipped_perhaps or not await self._claim_at_once(limit, jobs):
                await self._claim_apart(limit, jobs)
        except DatabaseTrouble as error:
            self._failures += 1
            self._outage.note(error)
        else:
            self._failures = 0
            self._outage.end()
        return jobs

    async def _claim_at_once(self, limit: int, jobs: list[Job]) -> bool:
        """Claims with one statement. False: the claim is rolled back, perhaps for a single job."""
        token, span, began = uuid4(), self._lookback.span, monotonic()
        self._lanes_first = not self._lanes_first
        try:
            jobs += await self._store.claim(
                self._claimant,
                token,
                limit,
                span.since,
                span.until,
                self._terms(),
            )
        except DatabaseTrouble as error:
            if is_rejection(error) or (isinstance(error, StatementRolledBack) and self._failures >= ROLLED_BACK):
                return False
            if not error.state:
                self._in_doubt.note(token)
            raise
        self._lookback.note(span, began=began, jobs=len(jobs), room=limit)
        return True

    def _terms(self) -> Terms:
        return Terms(
            self._most_holding, self._lanes_first, self._intake.near() or None, self._shares.after, self._shares.taken
        )

    @property
    def _most_holding(self) -> int:
        """How many jobs with needs to claim: no more than workers are free, since each holds what others wait for.

        While quick jobs are claimed ahead, no worker is ever free. Then jobs with needs come next, with every second
        claim: half as many as there are workers, at most, wait and hold units.
        """
        if self._intake.free > 0:
            return self._intake.free
        return max(0, (self._intake.workers + 1) // 2 - self._intake.holding) if self._lanes_first else 0

    async def _claim_apart(self, limit: int, jobs: list[Job]) -> None:
        """Claims in ever smaller pieces: a job that cannot be claimed holds up no other job."""
        await self._claim_these(jobs, [])  # raises if no single job is at fault
        self._lookback.note_new_seen()
        there = await self._store.claimable(self._claimant, limit + len(self._passed_over))
        fresh = self._passed_over.not_among(there)[:limit]
        faults = await self._claim_piecewise(fresh, there, jobs)
        due = self._passed_over.due(limit - len(jobs))
        again = await self._claim_piecewise(due, there, jobs)
        self._passed_over.forget(job_id for job_id in due if job_id not in again)
        if self._passed_over:
            self._lookback.forget()  # claims apart tell nothing of dead entries, and go on for long
        if faults := faults | again:
            reason = next(iter(faults.values()))
            publish(JobsPassedOver(len(self._passed_over), reason))
            if self._passed_over.is_full and not jobs:
                raise UnexpectedState(f"Too many jobs cannot be claimed, and claims do not get past them: {reason}")

    @property
    def _is_skipped_perhaps(self) -> bool:
        """Whether a due job may be skipped by a trigger: asked after 4, 8, 16… claims in vain."""
        in_vain = self._sleeper.in_vain
        return in_vain >= IN_VAIN and in_vain & (in_vain - 1) == 0

    async def _claim_piecewise(
        self, job_ids: Sequence[UUID], there: Sequence[UUID], jobs: list[Job]
    ) -> dict[UUID, str]:
        """Claims as many of the jobs as possible, and passes over the rest. Returns the database's reasons, by job.

        there: the claimable jobs. A job that is there and was not claimed has been skipped.
        """
        began = monotonic()
        faults = dict(await piecewise(partial(self._claim_these, jobs), job_ids))
        if self._passed_over or self._is_skipped_perhaps:
            claimed = {job.id for job in jobs}
            skipped = set(there).intersection(job_ids) - claimed - faults.keys()
            faults |= dict.fromkeys(skipped, SKIPPED)
        if faults:
            self._passed_over.put(faults, took=(monotonic() - began) / len(job_ids))
        return faults

    async def _claim_these(self, jobs: list[Job], job_ids: Sequence[UUID]) -> None:
        token = uuid4()
        try:
            jobs += await self._store.claim_these(self._claimant, token, job_ids)
        except DatabaseTrouble as error:
            if not error.state:
                self._in_doubt.note(token)
            raise
