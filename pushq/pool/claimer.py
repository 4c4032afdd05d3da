"""Takes due jobs for the free workers, and waits well when there are none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from math import inf
from time import monotonic
from typing import Literal, TypeAlias
from uuid import UUID, uuid4

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from pushq.database.patience import is_objection, piecewise, reconnect_delay, trouble
from pushq.errors import DatabaseTrouble, StatementUndone, UnexpectedState
from pushq.events import ChoreDone, ChoreUndone, DatabaseBack, JobsClaimed, JobsPassedOver, Wakeup, WokenUp, publish
from pushq.job import Job
from pushq.outcome import released
from pushq.pool.doorbell import Doorbell
from pushq.pool.gate import Gate
from pushq.pool.intake import Intake
from pushq.pool.lookback import Lookback
from pushq.pool.outbox import Outbox
from pushq.pool.passed_over import PassedOver
from pushq.pool.store import Claimant, Store

Alarm: TypeAlias = Wakeup | Literal["gate"]
"""What ends a sleep. That the gate wants attention need not mean that there is something to claim."""

LINGER = 0.03
"""Seconds for which a pool that has run dry claims again before it counts as idle, so that a busy system does not flap.
As long, one without a free worker still counts as idle."""
LINGER_PER_JOB = 0.003
"""Seconds of that which each job is worth: below some 300 jobs a second a pool does not linger on, but is rung."""
POLL_WHEN_DEAF = 1.0
"""Seconds between polls, at most, while notifications do not arrive."""
OVERDUE = 0.25
"""Seconds after which claimed jobs that no worker has begun are given back."""
DUE_AND_NOT_OURS = 0.005
"""Seconds until the next claim where something is due that we did not get: somebody else holds it. Twice as long with
each claim in vain, up to LONGEST_IN_VAIN."""
LONGEST_IN_VAIN = 0.5
UNDONE = 5
"""Claims in a row that are undone for what should pass, after which they are tried apart: a lock for which a trigger of
somebody's waits, say."""
IN_VAIN = 4
"""Claims in vain after which what is due and not ours is looked at apart: a trigger of somebody's may skip it."""
WAIT = "wait"
"""What a claimer does between claims, as a chore."""
SKIPPED = "the job stays as it is, as where a trigger of somebody's skips it"
IN_DOUBT_AGAIN = 1.0
"""Seconds between two looks at what a claim may have taken whose reply was lost."""
CLAIM_IN_DOUBT = 45.0
"""Seconds for which a claim whose reply was lost may still be carried out, from when the database answers again: three
times the longest statement."""


class Claimer:
    """Claims for one pool. `gate` is None where the pool only polls; poll_interval in seconds, 0: never."""

    def __init__(
        self,
        store: Store,
        claimant: Claimant,
        *,
        intake: Intake,
        outbox: Outbox,
        doorbell: Doorbell,
        gate: Gate | None,
        poll_interval: float,
    ) -> None:
        self._store = store
        self._claimant = claimant
        self._intake = intake
        self._outbox = outbox
        self._doorbell = doorbell
        self._gate = gate
        self._poll_interval = poll_interval
        self._in_doubt: dict[UUID, float] = {}  # tokens of claims whose replies were lost, and until when they matter
        self._failures = 0  # how many claims in a row the database has refused
        self._lost_at: float | None = None  # since when
        self._unrest = 0  # how many waits in a row it has not let us come to
        self._unrest_since = 0.0
        self._saturated_since: float | None = None
        self._lingers_until = 0.0
        self._interruptions = 0  # of the doorbell's, those that have been heeded
        self._allowance = Allowance()
        self._looked_at = anyio.current_time()  # when a claim last looked at what is new
        self._in_vain = 0  # how many claims in a row, for what is due, have taken nothing
        self._was_rung = False  # whether the bell was heard, and charged for, since the gate was last forgotten
        self._lookback = Lookback()
        self._passed_over = PassedOver()

    async def run(self) -> None:
        """Claims until it is cancelled; then the workers' intake ends."""
        try:
            while True:
                await self._wait_for_room()
                await checkpoint_if_cancelled()  # what follows is shielded, and may never wait for anything else
                if not await self._claim():
                    await self._wait()
        finally:
            self._give_back()
            self._intake.close()
            await self._leave()

    async def _wait_for_room(self) -> None:
        """Waits until workers need jobs. While they all stay busy nobody is idle: let inserters skip the bell.

        Nor are any needed while outcomes cannot be written: more would only be held up here.
        """
        if self._gate and self._gate.is_open and self._saturated_since is not None:
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
            if self._intake.longest_wait > OVERDUE and not self._outbox.is_full:
                self._give_back()

    async def _shut(self, gate: Gate) -> None:
        """Tries until it is shut; or until workers need jobs, who must not wait for that."""
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
            self._outbox.put(released(job))

    async def _leave(self) -> None:
        """Nobody is idle here any more: writers need not ring for us."""
        with anyio.move_on_after(1, shield=True), suppress(DatabaseTrouble):
            if self._gate:
                await self._gate.shut()

    async def _claim(self) -> int:
        """How many jobs were taken and put where the workers find them."""
        room = self._intake.room
        # Shielded: a claim that is cancelled half-way may have taken jobs that nobody would run.
        with anyio.CancelScope(shield=True):
            # After a claim that took too long, for what its rows hold, fewer: in the end one row alone.
            jobs = await self._take_back() or await self._take(max(1, room >> self._failures))
        self._intake.put(jobs, room=room)
        if jobs:
            publish(JobsClaimed(len(jobs)))
            now = anyio.current_time()
            self._lingers_until = min(max(self._lingers_until, now) + LINGER_PER_JOB * len(jobs), now + LINGER)
            self._allowance.refund()
            self._in_vain = 0
        if len(jobs) < room:
            self._saturated_since = None
        elif self._saturated_since is None:
            self._saturated_since = anyio.current_time()
        return len(jobs)

    async def _take(self, limit: int) -> list[Job]:
        jobs = await self._look(limit)
        if not jobs and self._lookback.was_at_the_past:
            jobs = await self._look(limit)  # that the past holds nothing says nothing of what is new
        return jobs

    async def _look(self, limit: int) -> list[Job]:
        jobs: list[Job] = []
        try:
            if self._passed_over or self._is_skipped_perhaps or not await self._claim_at_once(limit, jobs):
                await self._claim_apart(limit, jobs)
        except DatabaseTrouble as error:
            self._failures += 1
            self._note_trouble(error)
        else:
            self._note_answer()
        return jobs

    async def _claim_at_once(self, limit: int, jobs: list[Job]) -> bool:
        """False: the database undoes it, perhaps for one of them."""
        token, span, began = uuid4(), self._lookback.span, monotonic()
        try:
            jobs += await self._store.claim(self._claimant, token, limit, span.since, span.until)
        except DatabaseTrouble as error:
            if is_objection(error) or (isinstance(error, StatementUndone) and self._failures >= UNDONE):
                return False
            if not error.state:
                self._in_doubt[token] = inf
            raise
        self._lookback.note(span, began=began, jobs=len(jobs), room=limit)
        if not self._lookback.was_at_the_past:
            self._looked_at = anyio.current_time()
        return True

    async def _claim_apart(self, limit: int, jobs: list[Job]) -> None:
        """One by one in the end, so that a job which the database does not let be claimed holds up no other."""
        await self._claim_these(jobs, [])  # undone, too, if it is no job's fault
        self._looked_at = anyio.current_time()
        there = await self._store.claimable(self._claimant, limit + len(self._passed_over))
        fresh = self._passed_over.among(there)[:limit]
        faults = await self._claim_piecewise(fresh, there, jobs)
        due = self._passed_over.due(limit - len(jobs))
        again = await self._claim_piecewise(due, there, jobs)
        self._passed_over.forget(job_id for job_id in due if job_id not in again)
        if self._passed_over:
            self._lookback = Lookback()  # it will be long before it is asked again, and tells nothing of this
        if faults := faults | again:
            reason = next(iter(faults.values()))
            publish(JobsPassedOver(len(self._passed_over), reason))
            if self._passed_over.is_full and not jobs:
                raise UnexpectedState(f"So many jobs cannot be claimed that claims do not get past them: {reason}")

    @property
    def _is_skipped_perhaps(self) -> bool:
        """Whether something has been due and not ours so often that it is looked at apart: less and less often."""
        return self._in_vain >= IN_VAIN and self._in_vain & (self._in_vain - 1) == 0

    async def _claim_piecewise(
        self, job_ids: Sequence[UUID], there: Sequence[UUID], jobs: list[Job]
    ) -> dict[UUID, str]:
        """Claims what it can of that, and passes over the rest. Returns what the database says of the rest."""
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
                self._in_doubt[token] = inf
            raise

    async def _take_back(self) -> list[Job]:
        """The jobs of claims whose replies were lost: else they would run nowhere under a living heartbeat."""
        self._in_doubt = {token: until for token, until in self._in_doubt.items() if until > anyio.current_time()}
        for token, until in list(self._in_doubt.items()):
            with suppress(DatabaseTrouble):
                if jobs := await self._store.take_back(self._claimant.supervisor, token):
                    del self._in_doubt[token]
                    return jobs
                self._in_doubt[token] = min(until, anyio.current_time() + CLAIM_IN_DOUBT)
        return []

    async def _wait(self) -> None:
        """Nothing was found, or the database does not do as it is told. Returns when it is time to look again."""
        if self._failures:
            await anyio.sleep(reconnect_delay(self._failures).total_seconds())
            return
        try:
            woken_by = await self._wait_for_work()
        except DatabaseTrouble as error:
            await self._wait_badly(error)
        else:
            if self._unrest:
                publish(ChoreDone(WAIT, anyio.current_time() - self._unrest_since))
            self._unrest = 0
            publish(WokenUp(woken_by))

    async def _wait_badly(self, error: DatabaseTrouble) -> None:
        """Whatever keeps us from waiting well, a gate that we may not open, say, jobs are looked for all the same."""
        if not self._unrest:
            self._unrest_since = anyio.current_time()
        self._unrest += 1
        pause = reconnect_delay(self._unrest).total_seconds()
        if not is_objection(error):
            self._note_trouble(error)
            await anyio.sleep(pause)
            return
        publish(ChoreUndone(WAIT, str(error)))
        publish(WokenUp(await self._rest(pause, "poll")))

    def _note_trouble(self, error: DatabaseTrouble) -> None:
        if self._lost_at is None:
            self._lost_at = anyio.current_time()
        publish(trouble(error))

    def _note_answer(self) -> None:
        self._failures = 0
        if self._lost_at is not None:
            publish(DatabaseBack(anyio.current_time() - self._lost_at))
            self._lost_at = None

    async def _wait_for_work(self) -> Wakeup:
        """Nothing was found. Returns when it is time to look again, and why."""
        if self._lookback.is_pressed:
            return "linger"
        await self._heed_interruptions()
        if self._gate and self._doorbell.hears and not self._gate.next_step_in:
            if (left := self._lingers_until - anyio.current_time()) > 0:
                return await self._rest(min(left, 0.005), "linger")
            await self._gate.settle()
            self._lookback.press()
            return "linger"
        return await self._wait_until_due()

    async def _heed_interruptions(self) -> None:
        """Forgets the gate if it may have been shut while we were awake. Anybody may say it, as often as they like."""
        if self._gate and self._interruptions != self._doorbell.interruptions:
            if not self._was_rung:
                await anyio.sleep(self._allowance.spend())
            self._was_rung = False
            self._interruptions = self._doorbell.interruptions
            self._gate.forget()

    async def _wait_until_due(self) -> Wakeup:
        asked_at = anyio.current_time()  # a claim that is sent when it is due takes as long to get there as this does
        outlook = await self._store.next_due(self._claimant, self._lookback.newest.since)
        if not outlook.lease_is_live:
            return await self._rest(0.5, "poll")  # the supervisor's heartbeat will revive it
        if outlook.due_in is None or outlook.due_in > 0:
            self._in_vain = 0
            return await self._sleep(None if outlook.due_in is None else asked_at + outlook.due_in)
        pause = min(DUE_AND_NOT_OURS * 2 ** min(self._in_vain - 1, 20), LONGEST_IN_VAIN) if self._in_vain else 0.0
        self._in_vain += 1
        return await self._sleep(asked_at + pause)  # at first at once: it has become due since we claimed

    async def _sleep(self, due_at: float | None) -> Wakeup:
        """Sleeps until the bell or the first alarm, and keeps the gate open meanwhile."""
        while True:
            seconds, why = min(self._alarms(due_at), default=(float("inf"), "poll"))
            if await self._is_rung_within(seconds):
                return "notify"
            if why != "gate":
                return why
            if self._gate and await self._gate.settle():
                self._lookback.press()
                return "linger"

    async def _rest(self, seconds: float, why: Wakeup) -> Wakeup:
        return "notify" if await self._is_rung_within(seconds) else why

    async def _is_rung_within(self, seconds: float) -> bool:
        """Waits for the bell. A storm of rings that lead to nothing is answered at a bounded rate."""
        is_rung = False
        with anyio.move_on_after(seconds):
            await self._doorbell.wait_rung()
            is_rung = self._was_rung = True
            if pause := self._allowance.spend():
                await anyio.sleep(pause)
        return is_rung

    def _alarms(self, due_at: float | None) -> list[tuple[float, Alarm]]:
        """What ends the sleep if no bell does, as (seconds, why).

        Each counts from an instant that is its own. One that counted from when the sleep began would be put off by
        whatever ends sleeps more often.
        """
        alarms: list[tuple[float, Alarm]] = []
        if due_at is not None:
            alarms.append((max(0.0, due_at - anyio.current_time()), "timer"))
        if self._poll_interval:
            alarms.append((self._left_of(self._poll_interval), "poll"))
        if self._gate and self._doorbell.hears:
            alarms.append((self._gate.next_step_in, "gate"))
        elif self._gate and self._poll_interval:
            alarms.append((self._left_of(POLL_WHEN_DEAF), "poll"))
        if (seconds := self._lookback.slice_due_in) < inf:
            alarms.append((seconds, "linger"))
        if self._passed_over:
            alarms.append((max(0.0, self._passed_over.next_try_at - anyio.current_time()), "poll"))
        if self._in_doubt:
            alarms.append((self._left_of(IN_DOUBT_AGAIN), "poll"))
        return alarms

    def _left_of(self, interval: float) -> float:
        """Seconds until the last look is so long ago."""
        return max(0.0, self._looked_at + interval - anyio.current_time())


class Allowance:
    """How often a ring may lead to an empty claim: twenty in a row, then twenty a second. A token bucket."""

    def __init__(self, rate: float = 20.0, most: float = 20.0) -> None:
        self._rate = rate
        self._most = most
        self._left = most
        self._counted_at = anyio.current_time()

    def spend(self) -> float:
        """Seconds to wait before the next claim."""
        now = anyio.current_time()
        refilled = min(self._most, self._left + (now - self._counted_at) * self._rate)
        self._left = max(refilled - 1, -1.0)  # whoever does not wait for its turn runs up no debt
        self._counted_at = now
        return max(0.0, -self._left / self._rate)

    def refund(self) -> None:
        """The last one was worth it."""
        self._left = min(self._most, self._left + 1)
