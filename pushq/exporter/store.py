"""What the exporter asks the database."""

from __future__ import annotations

from typing import Any

from pushq.database.speaker import Speaker


class Store(Speaker):
    """Counters, gauges, and which labels there are."""

    async def tallies(self) -> list[Any]:
        """Rows of (queue, task, outcome, jobs, run_seconds, wait_seconds), and (run_buckets, run_jobs, wait_buckets,
        wait_jobs): buckets, and how many jobs are in each. In the order of queue and task.
        """
        return await self._fetch("tallies")

    async def gauges(self) -> list[Any]:
        """Rows of (queue, status, jobs, age in seconds)."""
        return await self._fetch("gauges")

    async def overview(self) -> Any:
        """One row of (supervisors, queues, run_bounds, wait_bounds)."""
        return await self._one("overview")
