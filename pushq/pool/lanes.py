"""The lanes of a pool's running jobs: which lanes go on in the places of their own jobs, and for how long.

Theory of operation. A job with needs holds units while it runs. When the job ends, the next of the same lane needs the
same, so the next may start in its place, in the very transaction that writes the outcome (pushq.follow). Nobody need be
woken, and nothing be counted. A lane may go on like this for a turn, from when its first job was claimed; after that,
only while none of the queue's most urgent jobs waits for what the lane holds, and for LONGEST at most. Then the units
are given back, and whoever is first in line takes them.

Whoever gives units back owes a look, since others may wait for the units. This pool looks first: its claimer is woken,
and takes whoever is first in line. If jobs of the same lanes do not take all the places, the other pools are rung: the
units of one large job may serve many small ones, and other pools serve other queues. So while jobs wait everywhere,
nobody notifies. If no worker is free for a look, the others are rung at once. A pool that dies in between owes nothing:
whoever finds the death rings.

The worker of a job that ends waits for the next of the lane meanwhile: its place is kept.

When a rule changes, all lanes let go, and the next jobs are claimed: a lane would go on over a capacity that is lower
now. A pool that does not hear of the change learns by the turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from time import monotonic
from uuid import uuid4

from pushq.job import Job
from pushq.outcome import ENDS, Outcome
from pushq.pool.doorbell import Doorbell
from pushq.pool.in_doubt import InDoubt
from pushq.pool.intake import Intake
from pushq.pool.loads import Loads
from pushq.pool.outbox import Outbox
from pushq.pool.recalls import given_back
from pushq.pool.store import Claimant, Fence, Following, Store

RULES = "pushq_rules"
"""The channel on which a change of rules is told."""
LONGEST = 1.0
"""Seconds for which a lane goes on beyond its turn, at most, since the look at the most urgent jobs may miss others."""


class Lanes:
    """claimant: takes the jobs that follow."""

    def __init__(
        self,
        store: Store,
        claimant: Claimant,
        *,
        loads: Loads,
        intake: Intake,
        outbox: Outbox,
        doorbell: Doorbell,
    ) -> None:
        self._claimant = claimant
        self.loads = loads
        self._intake = intake
        self.outbox = outbox
        self.doorbell = doorbell
        self.in_doubt = InDoubt(store, claimant.supervisor)
        self._turn_ends: dict[Fence, float] = {}  # of jobs that run, or whose outcomes are not written
        self.owed = Counter[str | None]()
        """Of the lanes, how many jobs have given units back for which nobody has looked yet."""
        self._kept = set[Fence]()  # whose workers wait for the next of the lane

    def begin(self, jobs: Sequence[Job]) -> None:
        """Jobs were claimed: for each with a lane, a turn begins."""
        for job in jobs:
            if job.extras and job.turn:
                self._turn_ends[job.fence] = monotonic() + job.turn

    def end(self, outcome: Outcome) -> None:
        """An attempt has ended. If its lane may go on, the worker's place is kept until the outcome is written."""
        fence = outcome.job.fence
        if outcome.kind in ENDS and self._turn_ends.get(fence, -LONGEST) + LONGEST > monotonic():
            self._kept.add(fence)
            self._intake.keep_place()

    def let_go(self, _: str = "") -> None:
        """A rule has changed: no lane goes on."""
        self._turn_ends.clear()

    def following(self, outcomes: Sequence[Outcome]) -> Following | None:
        """What may follow jobs whose ends are to be written now. None: no job has a lane."""
        if not any(outcome.job.extras and outcome.job.lane for outcome in outcomes):
            return None
        kept = self._kept & self._turn_ends.keys() if not self._intake.is_closed else ()
        lanes = [outcome.job.lane if outcome.job.fence in kept else None for outcome in outcomes]
        queues = [outcome.job.queue for outcome in outcomes]
        now = monotonic()
        turns_over = [self._turn_ends.get(outcome.job.fence, 0.0) < now for outcome in outcomes]
        return Following(self._claimant, uuid4(), queues, lanes, turns_over)

    def settle(self, outcomes: Sequence[Outcome], jobs: Sequence[Job]) -> bool:
        """The ends are written, or the write has failed. jobs: what follows.

        Returns whether others are to be told of units that were given back, since no worker is free here.
        """
        ends: dict[tuple[str, str | None], float] = {}
        given_back_by = held_by(outcome.job for outcome in outcomes) - held_by(jobs)
        for outcome in outcomes:
            job = outcome.job
            if (end := self._turn_ends.pop(job.fence, None)) is not None:
                ends[job.queue, job.lane] = min(end, ends.get((job.queue, job.lane), end))
            if job.fence in self._kept:
                self._kept.remove(job.fence)
                self._intake.let_go_of_place()
        for job in jobs:
            self._turn_ends[job.fence] = ends.get((job.queue, job.lane), 0.0)
        if self._intake.is_closed:
            for job in jobs:
                self.outbox.put(given_back(job))
            return bool(given_back_by or jobs)
        self._intake.put_first(self.loads.of(jobs))
        if given_back_by and self._intake.free > 0:
            self.owed += given_back_by
            self.doorbell.ring()
            return False
        return bool(given_back_by)

    def owe(self) -> None:
        """Others are still to be told of units that were given back."""
        self.owed[None] += 1  # no lane, so no claim pays for the units
        self.doorbell.ring()

    def lose(self, following: Following) -> None:
        """The reply was lost, and with it the jobs that follow."""
        self.in_doubt.note(following.token)
        self.doorbell.ring()


def held_by(jobs: Iterable[Job]) -> Counter[str | None]:
    """How many of the jobs hold units, by lane."""
    return Counter(job.lane for job in jobs if job.extras and job.lane)
