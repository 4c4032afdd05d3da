"""What a supervisor says to the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pushq.sweeper import store as sweeper


@dataclass(frozen=True, slots=True)
class Survey:
    """What a supervisor looks after beside its pools.

    pools: under whose numbers its jobs run. suspects: how many jobs that have killed two processes are due, of those
    that its pools know and serve. suspect_due_in: seconds until the next one is, None: none waits.
    """

    pools: Sequence[int]
    suspects: int
    suspect_due_in: float | None


class Store(sweeper.Store):
    """Its lease, and what it looks after beside its pools; with the sweeper's statements, since it sweeps."""

    async def heartbeat(self, name: str, host: str, pid: int, lease: float) -> bool:
        """Whether the lease had run out."""
        row = await self._one("heartbeat", name, host, pid, lease)
        return bool(row["lapsed"])

    async def goodbye(self, name: str) -> None:
        await self._fetch("goodbye", name)

    async def survey(self, supervisor: str, queues: Sequence[str], tasks: Sequence[str], most: int) -> Survey:
        """most: suspects to count."""
        row = await self._one("survey", supervisor, list(queues), list(tasks), most)
        return Survey(**row)
