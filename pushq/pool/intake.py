"""Claimed jobs on their way to the workers: filled by the claimer, emptied by the workers.

Theory of operation. While jobs are there, workers take them without a switch of tasks. So a handler that never waits
costs no round of the event loop.

The intake also decides how many jobs to claim: one for each free worker, and as many more as workers will begin within
HORIZON at the recent pace. So quick jobs are claimed by thousands, and no job waits long in memory while another pool
could run the job. Jobs that take longer than HORIZON are claimed one by one. The pace counts only while claims come
back full: without a backlog, nothing is left to claim ahead. The claimer gives back jobs that wait too long after all.

A load is what a worker takes at once: a job, or a list of jobs for a handler that takes batches. All figures here count
loads.

While loads with an affinity are there, a worker takes one that suits its seat, and leaves what suits the seat of
another worker that waits. Loads without affinity cost nothing for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import monotonic

import anyio
from anyio.lowlevel import checkpoint

from pushq.job import Job
from pushq.pool.loads import Load
from pushq.pool.seats import Seat, Seats, affinity_of, wishes

HORIZON = 0.1
"""Seconds of work to claim ahead, at most."""
TURN = 0.002
"""Seconds that workers run handlers without a wait before the event loop goes round."""
FURTHEST_AHEAD = 4000
"""Loads to claim ahead, at most."""
LARGEST_CLAIM = 2000
"""Jobs to claim with one statement, at most."""
GROWTH = 4
"""Loads to claim ahead, at most, for each load that has just ended: a few quick ones prove little."""


class Intake:
    """The loads that wait for a worker, and the workers that wait for a load."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.busy = 0
        self._kept = 0  # workers that wait for the next job of the lane in which their last one ran
        self._loads: deque[Load] = deque()
        self._arrivals: deque[tuple[int, float]] = deque()  # by claim: how many loads had come by then, and when
        self._come = 0
        self._pace = _Pace(workers)
        self._idle: list[tuple[anyio.Event, Seat]] = []  # of waiting workers: the last to come is the first to go
        self._woken = list[Seat]()  # of workers that have been woken, and have not gone on yet
        self._choosy = 0  # loads with an affinity
        self.seats = Seats()
        self._claim_below = 0  # the claimer is woken when no more loads than this are left
        self._has_room = anyio.Event()
        self._turn_ends = 0.0
        self._is_yielding = False  # whether a worker has yielded to the loop, and will go on at once
        self.is_closed = False

    # The workers' side ----------------------------------------------------------------------------------------

    def take_now(self, seat: Seat) -> Load | None:
        """Returns the next load for a worker. None: no load is there, or the worker's turn has ended."""
        return self._take(seat) if self._loads and monotonic() < self._turn_ends else None

    async def take(self, seat: Seat) -> Load | None:
        """Returns the next load for a worker, or None when the intake is closed and empty."""
        if monotonic() >= self._turn_ends:
            await self._let_others_run()
        while not (self._loads and (load := self._take(seat))):
            if self.is_closed:
                return None
            self._has_room.set()
            await self._wait(seat)
        return load

    def _take(self, seat: Seat) -> Load | None:
        """None: all loads suit the seats of others that wait."""
        if self._choosy:
            place = self._choose(seat)
            if place is None:
                return None
            load = self._loads[place]
            del self._loads[place]
            self._choosy -= affinity_of(load) is not None
            self._wake_one()
        else:
            load = self._loads.popleft()
        self.busy += 1
        if len(self._loads) <= self._claim_below:
            self._has_room.set()
        return load

    def _choose(self, seat: Seat) -> int | None:
        """The place of the load for a worker."""
        affinities = [affinity_of(load) for load in self._loads]
        others = {other.affinity for _, other in self._idle} | {other.affinity for other in self._woken}
        fit = (place for place, affinity in enumerate(affinities) if affinity and affinity == seat.affinity)
        free = (place for place, affinity in enumerate(affinities) if affinity is None or affinity not in others)
        return next(fit, next(free, 0 if self.is_closed else None))

    def done(self) -> None:
        """Notes that a worker has ended its load."""
        self.busy -= 1
        self._pace.ended += 1

    def keep_place(self) -> None:
        """A worker that ends its load waits for the next of the lane: no other job is claimed for that worker."""
        self._kept += 1

    def let_go_of_place(self) -> None:
        self._kept -= 1
        self._has_room.set()

    async def _let_others_run(self) -> None:
        """Yields to the event loop once, and then the same worker goes on. So no other worker need be woken."""
        self._is_yielding = True
        try:
            await checkpoint()
        finally:
            self._is_yielding = False
        self._turn_ends = monotonic() + TURN
        self._wake_one()

    async def _wait(self, seat: Seat) -> None:
        while not self.is_closed:
            waiting = anyio.Event(), seat
            self._idle.append(waiting)
            try:
                await waiting[0].wait()
            finally:
                if waiting in self._idle:
                    self._idle.remove(waiting)
                elif seat in self._woken:
                    self._woken.remove(seat)
            if not self._is_yielding:
                break
        self._wake_one()

    def _wake_one(self) -> None:
        """Wakes a worker if loads are left. Each woken worker wakes the next, since its own handler may wait."""
        if self._loads and self._idle:
            event, seat = self._idle.pop(self._suited() if self._choosy else -1)
            event.set()
            if self._choosy:
                self._woken.append(seat)

    def _suited(self) -> int:
        """The place of a waiting worker whose seat suits one of the loads, or of the last to come."""
        affinities = {affinity_of(load) for load in self._loads} - {None}
        return next((place for place, (_, seat) in enumerate(self._idle) if seat.affinity in affinities), -1)

    # The claimer's side ---------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many jobs to claim now."""
        ahead = self._pace.ahead()
        self._claim_below = max(0, ahead - LARGEST_CLAIM, ahead // 2)
        if len(self._loads) > self._claim_below:
            return 0
        return max(0, min(self.workers - self.busy - self._kept + ahead - len(self._loads), LARGEST_CLAIM))

    @property
    def free(self) -> int:
        """Workers for which no load is there. Negative: so many loads wait."""
        return self.workers - self.busy - self._kept - len(self._loads)

    def near(self) -> list[str]:
        """The needs for which workers without a load are ready."""
        return wishes(seat for _, seat in self._idle)

    def renew_turns(self) -> None:
        """A claim has found nothing: nobody waits for a worker."""
        for seat in self.seats:
            seat.renew()

    @property
    def holding(self) -> int:
        """Loads that wait, and whose jobs hold units. They are the first."""
        count = 0
        for load in self._loads:
            job = load[0] if isinstance(load, list) else load
            if not (job.extras and job.lane):
                break
            count += 1
        return count

    async def wait_room(self) -> None:
        while self.room <= 0:
            self._has_room = anyio.Event()
            await self._has_room.wait()

    def put(self, loads: Sequence[Load], *, is_full: bool) -> None:
        """Adds what a claim has brought. is_full: whether the claim has brought as much as there was room for."""
        self._loads.extend(loads)
        self._come += len(loads)
        self._arrivals.append((self._come, monotonic()))
        self._pace.note_claim(is_full=is_full)
        self._wake_one()

    def put_first(self, loads: Sequence[Load]) -> None:
        """Adds loads before all others: their jobs hold what others wait for."""
        self._loads.extendleft(reversed(loads))
        self._choosy += sum(affinity_of(load) is not None for load in loads)
        self._come += len(loads)
        self._wake_one()

    @property
    def longest_wait(self) -> float:
        """Seconds that the first of the waiting loads has waited for a worker."""
        begun = self._come - len(self._loads)
        while self._arrivals and self._arrivals[0][0] <= begun:
            self._arrivals.popleft()
        return monotonic() - self._arrivals[0][1] if self._arrivals else 0.0

    def restart_waits(self) -> None:
        """Counts waits from now: until now, jobs and workers have waited for room in the outbox."""
        self._arrivals = deque((come, monotonic()) for come, _ in self._arrivals)

    def waiting(self) -> list[Job]:
        """The jobs that no worker has begun."""
        return [job for load in self._loads for job in (load if isinstance(load, list) else (load,))]

    def give_back(self) -> list[Job]:
        """Takes out the jobs that no worker has begun."""
        jobs = self.waiting()
        self._loads.clear()
        self._choosy = 0
        return jobs

    def close(self) -> None:
        """Ends the workers when the last job is taken."""
        self.is_closed = True
        for event, _ in self._idle:
            event.set()


class _Pace:
    """How many jobs ended recently within HORIZON: in the last full span of time, or in the current span."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.ended = 0
        self._began = (0, monotonic())  # of the current span: how many jobs had ended, and when
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
        # One load of each worker may have begun long before.
        count, seconds = max(0, self.ended - self._began[0] - self._workers), now - self._began[1]
        expected = count * HORIZON / max(seconds, 0.001)
        if seconds >= HORIZON:
            self._began, self._last_span = (self.ended, now), expected
        will_begin = max(self._last_span, min(expected, GROWTH * count))
        return int(min(will_begin, FURTHEST_AHEAD)) if will_begin > self._workers else 0
