"""Whether a supervisor is ready, and why not: the one place that decides, for /readyz and for systemd.

A supervisor is ready when every pool claims, and every pool hears notifications, or knows that none arrive and polls. A
busy pool stays ready, and so does a pool whose loop a handler blocks. Anybody may read the reasons, so reasons name no
database, host or user; the log does.
"""

from __future__ import annotations

from collections.abc import Callable

from pushq.settings import Settings
from pushq.supervisor.crew import Crew
from pushq.supervisor.processes import PoolProcess
from pushq.supervisor.systemd import tell_systemd

AWAY = "the database is away or refuses us; the log says why"


class Readiness:
    """`takes_heartbeats`: whether the database took the supervisor's last heartbeat."""

    def __init__(self, crew: Crew, settings: Settings, *, takes_heartbeats: Callable[[], bool]) -> None:
        self._crew = crew
        self._settings = settings
        self._takes_heartbeats = takes_heartbeats
        self._told = False

    def tell(self) -> None:
        """Tells systemd, once, when the supervisor has become ready."""
        if not self._told and self.why_not() is None:
            self._told = True
            tell_systemd("READY=1\nSTATUS=claiming jobs")

    def why_not(self) -> str | None:
        """The reason in a few words, or None when ready."""
        if self._crew.is_draining:
            return "draining"
        pools = self._crew.ordinary_pools
        if len(pools) < self._settings.processes:
            return "a pool has died and is not up again"
        reasons = (self._why_not_pool(pool) for pool in pools)
        if reason := next((reason for reason in reasons if reason), None):
            return reason
        return None if self._takes_heartbeats() else AWAY

    def _why_not_pool(self, pool: PoolProcess) -> str | None:
        figures = pool.figures
        if figures.trouble:
            return AWAY
        if not figures.has_claimed and not figures.busy:
            return f"pool {pool.number} has not claimed yet"
        if self._settings.wake == "notify" and not figures.hears and not self._only_polls(pool):
            return f"pool {pool.number} does not hear notifications"
        return None

    def _only_polls(self, pool: PoolProcess) -> bool:
        """Whether the pool has found that no notification arrives, and polls instead."""
        return pool.figures.hears is False and self._settings.poll_interval > 0
