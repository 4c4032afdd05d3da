"""The exporter's statements."""

from __future__ import annotations

from typing import Any

from pushq.database.speaker import Speaker


class Store(Speaker):
    """Counters, gauges, and labels."""

    async def tallies(self) -> list[Any]:
        """Rows in the order of queue and task.

        Columns: queue, task, outcome, jobs, run_seconds, wait_seconds, run_buckets, run_jobs, wait_buckets, wait_jobs.
        run_buckets lists numbers of buckets, run_jobs the jobs in each bucket.
        """
        return await self._fetch("tallies")

    async def gauges(self) -> list[Any]:
        """Rows of (queue, status, jobs, age in seconds)."""
        return await self._fetch("gauges")

    async def oldest_running(self) -> list[Any]:
        """Rows of (queue, task, age in seconds)."""
        return await self._fetch("oldest_running")

    async def limits(self) -> list[Any]:
        """Rows of (name, capacity, held). capacity: None for any."""
        return await self._fetch("limits")

    async def overview(self) -> Any:
        """One row of (supervisors, queues, schedules_with_error, schedules_late, run_bounds, wait_bounds), in s."""
        return await self._one("overview")
