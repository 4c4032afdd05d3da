"""What a supervisor says to the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pushq.sweeper import store as sweeper


@dataclass(frozen=True, slots=True)
class Survey:
    """A supervisor's running jobs, and the suspects for its solo pools: jobs that have killed two processes.

    pools: numbers of the pools under which jobs run. suspects: how many known and served suspects are due.
    suspect_due_in: seconds until the next suspect is due, or None when none waits. has_webhooks: whether there is a
    webhook that is not paused, or a delivery.
    """

    pools: Sequence[int]
    suspects: int
    suspect_due_in: float | None
    has_webhooks: bool


class Store(sweeper.Store):
    """The lease and the survey, beside the sweeper's statements, since a supervisor sweeps."""

    async def heartbeat(self, name: str, host: str, pid: int, lease: float, workers: int = 0) -> bool:
        """Renews the lease for `lease` seconds. workers: 0 if unknown. Returns whether the lease had run out."""
        row = await self._one("heartbeat", name, host, pid, lease, workers)
        return bool(row["lapsed"])

    async def goodbye(self, name: str) -> None:
        """Gives the lease back."""
        await self._fetch("goodbye", name)

    async def survey(self, supervisor: str, queues: Sequence[str], tasks: Sequence[str], most: int) -> Survey:
        """most: how many due suspects to count at most."""
        row = await self._one("survey", supervisor, list(queues), list(tasks), most)
        return Survey(**row)
