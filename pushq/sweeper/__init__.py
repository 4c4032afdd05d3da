"""Upkeep that any supervisor may do, side by side with the others, without a leader.

A sweep is a list of chores. Each is bounded, safe to repeat, and skips what somebody else is doing. A chore that
meets a database that is away ends the sweep; the next one is soon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import anyio

from pushq.database.store import Census, Store, Taken
from pushq.errors import DatabaseAway, DatabaseRefused
from pushq.events import DatabaseLost, DaysChanged, JobsRequeued, publish
from pushq.sweeper import witness
from pushq.sweeper.witness import Witness

WORTH_PARKING = 1000
"""Queued jobs from which on it is worth looking for those that nobody can run."""
DAYS_INTERVAL = 300.0
"""Seconds between two looks at the days; three are made ahead."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did."""

    dead: tuple[str, ...] = ()
    requeued: int = 0
    failed: int = 0
    made: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    folded: int = 0


class Sweeper:
    """One supervisor's sweeper. retention in seconds."""

    def __init__(
        self, store: Store, *, retention: float, takes_signs_of_life: Callable[[], bool] = lambda: True
    ) -> None:
        self._store = store
        self._takes_signs_of_life = takes_signs_of_life
        self._retention = timedelta(seconds=retention)
        self._witness = Witness()
        self._days_are_due_at = 0.0

    async def run(self, interval: float) -> None:
        """Sweeps every `interval` seconds until it is cancelled."""
        while True:
            try:
                await self.sweep()
            except (DatabaseAway, DatabaseRefused) as error:
                # Who could not be seen to live while the database was away is not dead.
                self._witness.forget()
                publish(DatabaseLost(str(error)))
            await anyio.sleep(interval)

    async def observe(self) -> None:
        """Only looks at the supervisors: the first half of telling who is dead."""
        await self._find_dead()

    async def sweep(self) -> Swept:
        began = anyio.current_time()
        taken, dead = await self._requeue_jobs_of_the_dead()
        days = await self._care_for_days() if anyio.current_time() >= self._days_are_due_at else DaysChanged()
        folded = await self._store.fold()
        if census := await self._store.take_census():
            await self._park(census)
        if anyio.current_time() - began > witness.SLOW_ANSWER:
            self._witness.forget()  # the database may have stood still, and everybody's heartbeat with it
        failed = sum(job.status == "failed" for job in taken)
        return Swept(tuple(dead), len(taken) - failed, failed, days.made, days.retired, days.dropped, folded)

    async def _requeue_jobs_of_the_dead(self) -> tuple[Sequence[Taken], Sequence[str]]:
        dead = await self._find_dead()
        if not dead:
            return [], []
        without_row = [name for name, heartbeat in dead if heartbeat < 0]
        buried = await self._store.bury([(name, heartbeat) for name, heartbeat in dead if heartbeat >= 0])
        names = [*buried, *without_row]
        taken = await self._store.requeue(names, crashed=True, buried=True) if names else []
        if names:
            failed = sum(job.status == "failed" for job in taken)
            publish(JobsRequeued(tuple(names), len(taken) - failed, failed))
        return taken, names

    async def _find_dead(self) -> list[tuple[str, int]]:
        asked_at = anyio.current_time()
        sightings = await self._store.observe()
        if not self._takes_signs_of_life():  # a database may answer and take no writes, so that everybody looks dead
            self._witness.forget()
            return []
        return self._witness.dead(sightings, asked_at, anyio.current_time())

    async def _park(self, census: Census) -> None:
        """Jobs of unknown tasks stand in the way of others only when there are many."""
        while census.parked and await self._store.unpark():
            pass
        while census.queued >= WORTH_PARKING and await self._store.park():
            pass

    async def _care_for_days(self) -> DaysChanged:
        made = [day.isoformat() for day in await self._store.make_days()]
        retired = [day.isoformat() for day in await self._store.retire_days(self._retention)]
        days = DaysChanged(tuple(made), tuple(retired), tuple(await self._drop_retired_days()))
        if days != DaysChanged():
            publish(days)
        if not retired:  # else something may have stood in the way of dropping them
            self._days_are_due_at = anyio.current_time() + DAYS_INTERVAL
        return days

    async def _drop_retired_days(self) -> list[str]:
        dropped = []
        for retired in await self._store.retired_days():
            try:
                if await self._store.drop_day(retired):
                    dropped.append(retired.day.isoformat())
            except DatabaseAway:  # a long transaction stands in the way: the day is empty and can wait
                break
        return dropped
