"""How a pool waits when a claim found nothing, and what wakes the pool.

Theory of operation. The claimer calls the sleeper after each empty claim, and claims again when the sleeper returns. So
a pool that runs dry passes through three stages, with a claim after each step:

    lingers ───▶ opens the gate ───▶ sleeps ───▶ is woken by the bell or an alarm

The pool *lingers* for 3 ms a claimed job, 30 ms at most, so that a busy system does not flap. The pool *opens the
gate*, in the steps told in `gate.py`, and from now on inserters ring. Then the pool *sleeps* until the bell rings or
the first alarm goes off:

    timer    the next job is due
    poll     the last look is too long ago, or a job that was passed over may be tried again
    linger   a slice of the past may be looked at (`lookback.py`)
    gate     the gate needs its next step; a claim follows only if an inserter may have skipped the bell

Each alarm counts from an instant of its own, never from the beginning of the sleep: else frequent sleeps would put off
a rare alarm for ever.

Inserters that ring hundreds of times a second hold one another up, since notifying commits run one after another. So a
pool that takes hundreds of jobs a second in small claims shuts the gate, and lingers.

A pool without a gate only polls. Where the database objects to a step of the waiting, the pool polls too.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Literal, TypeAlias

import anyio

from pushq.database.patience import Outage, is_rejection, reconnect_delay
from pushq.errors import DatabaseTrouble
from pushq.events import ChoreDone, ChoreFailed, Wakeup, WokenUp, publish
from pushq.pool.attention import Attention
from pushq.pool.gate import Gate
from pushq.pool.in_doubt import InDoubt
from pushq.pool.lookback import Lookback
from pushq.pool.passed_over import PassedOver
from pushq.pool.store import Claimant, Store

Alarm: TypeAlias = Wakeup | Literal["gate"]
"""Why a sleep ends without the bell. The gate's alarm alone is no reason to look for jobs."""

LINGER = 0.03
"""Seconds that a pool claims on before it counts as idle, so that a busy system does not flap. A pool without a free
worker counts as idle for as long."""
LINGER_PER_JOB = 0.003
"""Seconds to linger for each claimed job: below some 300 jobs a second, a pool sleeps in between, and is rung."""
LINGER_PAUSE = 0.003
"""Seconds between two claims of a lingering pool."""
STREAM = 400.0
"""Jobs a second, over the last claims that took jobs, from which the pool shuts its gate."""
STREAM_CLAIMS = 6
"""How many claims make a stream: fewer may be a burst."""
POLL_WHEN_DEAF = 1.0
"""Seconds between polls, at most, while notifications do not arrive."""
POLL_WITHOUT_LEASE = 0.5
"""Seconds between polls until the supervisor's heartbeat has renewed its lease."""
POLL_IN_DOUBT = 1.0
"""Seconds between two looks for the jobs of claims in doubt."""
DUE_AND_NOT_OURS = 0.005
"""Seconds until the next claim while a job is due and not claimable: another session has locked the row, say. The pause
doubles with each claim in vain."""
LONGEST_IN_VAIN = 0.5
"""Seconds until the next claim, at most, while a job is due and not claimable."""
CHORE = "wait"
"""The name of the waiting in the log."""


class Sleeper:
    """Waits on behalf of a claimer. gate: None if the pool only polls. poll_interval: in seconds, 0: never.

    lookback, passed_over, in_doubt, outage: shared with the claimer. They tell the sleeper when to wake.
    """

    def __init__(
        self,
        store: Store,
        claimant: Claimant,
        attention: Attention,
        gate: Gate | None,
        poll_interval: float,
        *,
        lookback: Lookback,
        passed_over: PassedOver,
        in_doubt: InDoubt,
        outage: Outage,
    ) -> None:
        self._store = store
        self._claimant = claimant
        self._attention = attention
        self._gate = gate
        self._poll_interval = poll_interval
        self._lookback = lookback
        self._passed_over = passed_over
        self._in_doubt = in_doubt
        self._outage = outage
        self._lingers_until = 0.0
        self._claims = deque[tuple[float, int]](maxlen=STREAM_CLAIMS)  # of the last claims: when, and how many jobs
        self._unrest = 0  # how many waits in a row have failed
        self._unrest_since = 0.0
        self.in_vain = 0
        """How many claims in a row, while a job was due, have taken none."""

    def note_jobs(self, count: int) -> None:
        """A claim took so many jobs."""
        now = anyio.current_time()
        self._lingers_until = min(max(self._lingers_until, now) + LINGER_PER_JOB * count, now + LINGER)
        self._claims.append((now, count))
        self._attention.note_job()
        self.in_vain = 0

    async def let_jobs_gather(self) -> None:
        """A claim found less than it could take. In a stream, waits a moment: many small claims cost more than few."""
        if self._gate and self._gate.is_shut and self._is_in_a_stream:
            await anyio.sleep(LINGER_PAUSE)

    async def wait(self) -> None:
        """A claim found nothing. Returns when the claimer is to look again."""
        try:
            woken_by = await self._wait_for_work()
        except DatabaseTrouble as error:
            await self._wait_badly(error)
            return
        if self._unrest:
            publish(ChoreDone(CHORE, anyio.current_time() - self._unrest_since))
        self._unrest = 0
        publish(WokenUp(woken_by))

    async def _wait_badly(self, error: DatabaseTrouble) -> None:
        """Polls instead, whatever the trouble: a pool without the right to open a gate still finds jobs."""
        if not self._unrest:
            self._unrest_since = anyio.current_time()
        self._unrest += 1
        pause = reconnect_delay(self._unrest).total_seconds()
        if not is_rejection(error):
            self._outage.note(error)
            await anyio.sleep(pause)
            return
        publish(ChoreFailed(CHORE, str(error)))
        publish(WokenUp(await self._rest(pause, "poll")))

    async def _wait_for_work(self) -> Wakeup:
        """Returns why the claimer is to look again."""
        if self._lookback.is_pressed:
            return "linger"
        if self._gate and await self._attention.interrupted():
            self._gate.forget()
        if self._gate and self._is_in_a_stream and self._lingers_until > anyio.current_time():
            await self._gate.shut()
        if self._gate and self._attention.hears and not self._gate.next_step_in:
            return await self._become_idle(self._gate)
        return await self._wait_until_due()

    @property
    def _is_in_a_stream(self) -> bool:
        """Whether jobs come so fast that their bells cost more than a look every few milliseconds."""
        if len(self._claims) < STREAM_CLAIMS:
            return False
        seconds = anyio.current_time() - self._claims[0][0]
        return sum(jobs for _, jobs in self._claims) > STREAM * seconds

    async def _become_idle(self, gate: Gate) -> Wakeup:
        if (left := self._lingers_until - anyio.current_time()) > 0:
            return await self._rest(min(left, LINGER_PAUSE), "linger")
        await gate.settle()
        self._lookback.press()
        return "linger"

    async def _wait_until_due(self) -> Wakeup:
        asked_at = anyio.current_time()  # a claim takes as long to the database as the question
        outlook = await self._store.next_due(self._claimant, self._lookback.newest.since)
        if not outlook.lease_is_live:
            return await self._rest(POLL_WITHOUT_LEASE, "poll")
        if outlook.due_in is None:
            self.in_vain = 0
            return await self._sleep(inf)
        if outlook.due_in > 0:
            self.in_vain = 0
            return await self._sleep(asked_at + outlook.due_in)
        pause = min(DUE_AND_NOT_OURS * 2 ** min(self.in_vain - 1, 20), LONGEST_IN_VAIN) if self.in_vain else 0.0
        self.in_vain += 1
        return await self._sleep(asked_at + pause)  # no pause at first: the job has fallen due since the last claim

    async def _sleep(self, due_at: float) -> Wakeup:
        """Sleeps until the bell or the first alarm, and keeps the gate open meanwhile."""
        while True:
            seconds, why = min(self._alarms(due_at))
            if await self._attention.rung_within(seconds):
                return "notify"
            if why != "gate":
                return why
            if self._gate and await self._gate.settle():
                self._lookback.press()
                return "linger"

    async def _rest(self, seconds: float, why: Wakeup) -> Wakeup:
        return "notify" if await self._attention.rung_within(seconds) else why

    def _alarms(self, due_at: float) -> list[tuple[float, Alarm]]:
        """The alarms that end the sleep unless the bell rings: (seconds, why)."""
        now = anyio.current_time()
        alarms: list[tuple[float, Alarm]] = [
            (max(0.0, due_at - now), "timer"),
            (max(0.0, self._look_every - self._lookback.new_seen_ago), "poll"),
            (max(0.0, self._passed_over.next_try_at - now), "poll"),
            (self._lookback.slice_due_in, "linger"),
        ]
        if self._gate and self._attention.hears:
            alarms.append((self._gate.next_step_in, "gate"))
        return alarms

    @property
    def _look_every(self) -> float:
        """Seconds between two looks at new jobs, at most."""
        intervals = [self._poll_interval or inf]
        if self._gate and self._poll_interval and not self._attention.hears:
            intervals.append(POLL_WHEN_DEAF)
        if self._in_doubt:
            intervals.append(POLL_IN_DOUBT)
        return min(intervals)
