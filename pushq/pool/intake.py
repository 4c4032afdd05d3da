"""Claimed jobs on their way to the workers: filled by the claimer, emptied by the workers.

Theory of operation. Workers take jobs from here without a switch of tasks while there are any, so that a handler that
never waits costs no round of the event loop. How many jobs to claim is decided here too: one for each free worker, and
as many more as will be begun within HORIZON at the pace of late. So quick jobs are claimed by hundreds, slow ones by
the worker, and none waits long in memory while another pool could run it. The pace counts only while claims come back
full: without a backlog there is nothing to claim ahead. Where it was wrong, what is overdue is given back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import monotonic

import anyio
from anyio.lowlevel import checkpoint

from pushq.job import Job

HORIZON = 0.03
"""Seconds of work, at most, that are claimed ahead."""
TURN = 0.002
"""Seconds for which workers run handlers that never wait before the event loop goes round."""
FURTHEST_AHEAD = 1000
LARGEST_CLAIM = 500
GROWTH = 4
"""What is claimed ahead is at most so many times what has just ended: a few quick jobs prove little."""


class Intake:
    """The jobs that wait for a worker, and the workers that wait for a job."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.busy = 0
        self._jobs: deque[Job] = deque()
        self._arrivals: deque[tuple[int, float]] = deque()  # how many jobs had come in all, and when
        self._come = 0
        self._pace = _Pace()
        self._idle: list[anyio.Event] = []  # one a waiting worker, the last to come the first to go
        self._claim_below = 0  # how few jobs may be left before the claimer is woken
        self._has_room = anyio.Event()
        self._turn_ends = 0.0
        self._is_letting = False  # whether a worker only lets others run, and goes on
        self._is_closed = False

    # The workers' side ----------------------------------------------------------------------------------------

    async def take(self) -> Job | None:
        """A job for a worker that has none; None when there will be no more."""
        if monotonic() >= self._turn_ends:
            await self._let_others_run()
        while not self._jobs:
            if self._is_closed:
                return None
            self._has_room.set()
            await self._wait()
        job = self._jobs.popleft()
        self.busy += 1
        if len(self._jobs) <= self._claim_below:
            self._has_room.set()
        return job

    def done(self) -> None:
        """A worker has ended its job."""
        self.busy -= 1
        self._pace.ended += 1

    async def _let_others_run(self) -> None:
        """Ends a worker's turn. It goes on at once, so that no other worker need come and help."""
        self._is_letting = True
        try:
            await checkpoint()
        finally:
            self._is_letting = False
        self._turn_ends = monotonic() + TURN
        self._wake_one()

    async def _wait(self) -> None:
        while not self._is_closed:
            event = anyio.Event()
            self._idle.append(event)
            try:
                await event.wait()
            finally:
                if event in self._idle:
                    self._idle.remove(event)
            if not self._is_letting:
                break
        self._wake_one()

    def _wake_one(self) -> None:
        """For the case that this worker will wait for something: each worker that comes wakes the next."""
        if self._jobs and self._idle:
            self._idle.pop().set()

    # The claimer's side ---------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many jobs to claim now."""
        ahead = self._pace.ahead()
        self._claim_below = max(0, ahead - LARGEST_CLAIM, ahead // 2)
        if len(self._jobs) > self._claim_below:
            return 0
        return min(self.workers - self.busy + ahead - len(self._jobs), LARGEST_CLAIM)

    async def wait_room(self) -> None:
        while self.room <= 0:
            self._has_room = anyio.Event()
            await self._has_room.wait()

    def put(self, jobs: Sequence[Job], *, room: int) -> None:
        """Jobs that were claimed when there was so much room."""
        self._jobs.extend(jobs)
        self._come += len(jobs)
        self._arrivals.append((self._come, monotonic()))
        self._pace.note_claim(is_full=len(jobs) >= room)
        self._wake_one()

    @property
    def longest_wait(self) -> float:
        """Seconds for which the first of the jobs here has waited for a worker."""
        begun = self._come - len(self._jobs)
        while self._arrivals and self._arrivals[0][0] <= begun:
            self._arrivals.popleft()
        return monotonic() - self._arrivals[0][1] if self._arrivals else 0.0

    def restart_waits(self) -> None:
        """What lies here has not waited for a worker, but with the workers for something else, which has come."""
        self._arrivals = deque((come, monotonic()) for come, _ in self._arrivals)

    def give_back(self) -> list[Job]:
        """Takes the jobs out that no worker has begun."""
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs

    def close(self) -> None:
        """There will be no more."""
        self._is_closed = True
        for event in self._idle:
            event.set()


class _Pace:
    """How many jobs end within HORIZON, of late: in the last full span of time, or in the one that is under way."""

    def __init__(self) -> None:
        self.ended = 0
        self._began = (0, monotonic())  # how many had ended when the span began, and when that was
        self._last_span = 0.0
        self._is_trusted = False

    def note_claim(self, *, is_full: bool) -> None:
        if not (is_full and self._is_trusted):
            self._began, self._last_span = (self.ended, monotonic()), 0.0
        self._is_trusted = is_full

    def ahead(self) -> int:
        if not self._is_trusted:
            return 0
        now = monotonic()
        count, seconds = self.ended - self._began[0], now - self._began[1]
        expected = count * HORIZON / max(seconds, 0.001)
        if seconds >= HORIZON:
            self._began, self._last_span = (self.ended, now), expected
        return int(min(max(self._last_span, min(expected, GROWTH * count)), FURTHEST_AHEAD))
