"""Tells the dead from the living, by two witnesses.

A pause of the database makes every living supervisor's lease run out by the database's clock, and a clock may jump. So
a supervisor is dead only if two witnesses agree. The lease has run out, by the database's clock. The heartbeat's
counter has stood still for a full lease, by this process's monotonic clock, while the database answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pushq.sweeper.store import Sighting

SLOW_ANSWER = 5.0
"""Seconds. A slower answer counts as an outage: counters may have stood still because the database did."""


@dataclass(frozen=True, slots=True)
class _Still:
    heartbeat: int
    since: float


class Witness:
    """Remembers since when each supervisor's counter has stood still."""

    def __init__(self) -> None:
        self._seen: dict[str, _Still] = {}

    def forget(self) -> None:
        self._seen.clear()

    def dead(self, sightings: Iterable[Sighting], asked_at: float, answered_at: float) -> list[tuple[str, int]]:
        """The dead among the supervisors seen, as (name, heartbeat). asked_at, answered_at: monotonic seconds.

        A supervisor that holds jobs and has no row is dead: declared so before, or gone with a goodbye.
        """
        if answered_at - asked_at > SLOW_ANSWER:
            self.forget()
        before, self._seen = self._seen, {}
        dead = []
        for one in sightings:
            still = before.get(one.name)
            if still is None or still.heartbeat != one.heartbeat:
                still = _Still(one.heartbeat, answered_at)
            self._seen[one.name] = still
            if one.expired and asked_at - still.since >= one.lease:
                dead.append((one.name, one.heartbeat))
        return dead
