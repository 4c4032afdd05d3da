"""Seats: what each worker ran last, so that jobs with the same affinity find the same worker.

Theory of operation. A seat remembers the affinity of its worker's last job that had one. Of the loads in the intake, a
worker takes one with its own affinity first, and leaves what suits another worker that waits (pushq/pool/intake.py).
For a turn of the queue, from when its affinity changed, a seat is also a wish: claims prefer jobs with its affinity
among equally urgent ones. When a claim has found nothing, nobody waits, and the turns begin anew.

What the seats remember stands in pushq.affinities, at most a second later, so that users see which pool is ready for
what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from math import inf
from time import monotonic

import anyio

from pushq.database.patience import wait_out
from pushq.job import Job
from pushq.pool.loads import Load
from pushq.pool.store import Claimant, Store

INTERVAL = 1.0
"""Seconds between two writes of pushq.affinities."""


def affinity_of(load: Load) -> str | None:
    job = load[0] if isinstance(load, list) else load
    return job.affinity if job.extras else None


class Seat:
    """Of one worker. turn_ends: when others may want another affinity here, on the monotonic clock."""

    __slots__ = ("affinity", "turn_ends")

    def __init__(self) -> None:
        self.affinity: str | None = None
        self.turn_ends = inf

    def sit(self, job: Job) -> Job:
        """The worker begins the job. Returns the job, which knows whether the affinity has changed."""
        affinity = job.affinity
        if affinity is None:
            return job
        if affinity != self.affinity or self.turn_ends == inf:
            self.turn_ends = monotonic() + job.turn
        if affinity == self.affinity:
            return job
        self.affinity = affinity
        return job.with_changed_affinity()

    def renew(self) -> None:
        """Nobody waits."""
        self.turn_ends = inf


class Seats:
    """Of the workers of a pool."""

    def __init__(self) -> None:
        self._seats = list[Seat]()

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats)

    def new(self) -> Seat:
        self._seats.append(Seat())
        return self._seats[-1]

    def tally(self) -> dict[str, int]:
        """How many workers last ran each affinity."""
        return dict(Counter(seat.affinity for seat in self._seats if seat.affinity is not None))

    async def tell(self, store: Store, claimant: Claimant) -> None:
        """Writes the tally when it has changed, until cancelled. First in any case: a pool before had this number."""
        told: dict[str, int] | None = None
        while True:
            await anyio.sleep(INTERVAL)
            if (now := self.tally()) != told:
                await wait_out(partial(store.note_affinities, claimant, now))
                told = now


def wishes(seats: Iterable[Seat]) -> list[str]:
    """The needs that claims should prefer for these workers."""
    now = monotonic()
    return list({f"affinity:{seat.affinity}" for seat in seats if seat.affinity is not None and seat.turn_ends > now})
