"""Upkeep that any supervisor may do, side by side with the others, without a leader.

A sweep is a list of chores. Each is bounded, safe to repeat, and skips what somebody else is doing. One that cannot be
done, for a lock that somebody holds or a right that is missing, keeps none of the others from being done. A chore that
meets a database that is away ends the sweep; the next one is soon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import anyio

from pushq.database.store import Store
from pushq.errors import DatabaseAway, DatabaseRefused, StatementUndone
from pushq.events import DatabaseBack, DatabaseLost, DaysChanged, JobsRequeued, publish
from pushq.sweeper import witness
from pushq.sweeper.witness import Witness

WORTH_PARKING = 1000
"""Queued jobs from which on it is worth looking for those that nobody can run."""
DAYS_INTERVAL = 300.0
"""Seconds between two looks at the days; three are made ahead."""


@dataclass(slots=True)
class Swept:
    """What a sweep did. undone: a sentence for each chore that could not be done, and will be tried again."""

    dead: tuple[str, ...] = ()
    requeued: int = 0
    failed: int = 0
    made: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    folded: int = 0
    undone: tuple[str, ...] = ()


class Sweeper:
    """One supervisor's sweeper. retention in seconds."""

    def __init__(
        self, store: Store, *, retention: float, takes_signs_of_life: Callable[[], bool] = lambda: True
    ) -> None:
        self._store = store
        self._takes_signs_of_life = takes_signs_of_life
        self._retention = timedelta(seconds=retention)
        self._witness = Witness()
        self._buried = set[str]()  # by us, and jobs of theirs may be left
        self._days_are_due_at = 0.0

    async def run(self, interval: float) -> None:
        """Sweeps every `interval` seconds until it is cancelled."""
        lost_at: float | None = None
        while True:
            trouble = await self._trouble_of_a_sweep()
            if trouble:
                lost_at = lost_at or anyio.current_time()
                publish(DatabaseLost(trouble))
            elif lost_at:
                publish(DatabaseBack(anyio.current_time() - lost_at))
                lost_at = None
            await anyio.sleep(interval)

    async def _trouble_of_a_sweep(self) -> str | None:
        try:
            swept = await self.sweep()
        except (DatabaseAway, DatabaseRefused) as error:
            return str(error)
        return swept.undone[0] if swept.undone else None

    async def observe(self) -> None:
        """Only looks at the supervisors: the first half of telling who is dead."""
        await self._find_dead()

    async def sweep(self) -> Swept:
        """Raises DatabaseAway or DatabaseRefused when the supervisors cannot be seen, or the database goes away."""
        swept = Swept()
        dead = await self._find_dead()
        await self._try(swept, lambda: self._requeue_jobs_of(dead, swept))
        if anyio.current_time() >= self._days_are_due_at:
            await self._try(swept, lambda: self._care_for_days(swept))
        await self._try(swept, lambda: self._fold(swept))
        await self._try(swept, self._park_the_unknown)
        return swept

    async def _try(self, swept: Swept, chore: Callable[[], Awaitable[None]]) -> None:
        began = anyio.current_time()
        try:
            await chore()
        except (StatementUndone, DatabaseRefused) as error:
            swept.undone += (str(error),)
        except DatabaseAway:
            self._witness.forget()  # who cannot be seen to live while the database is away is not dead
            raise
        if anyio.current_time() - began > witness.SLOW_ANSWER:
            self._witness.forget()  # the database may have stood still, and everybody's heartbeat with it

    async def _find_dead(self) -> list[tuple[str, int]]:
        asked_at = anyio.current_time()
        try:
            sightings = await self._store.observe()
        except (DatabaseAway, DatabaseRefused):
            self._witness.forget()
            raise
        if not self._takes_signs_of_life():  # a database may answer and take no writes, so that everybody looks dead
            self._witness.forget()
            return []
        self._buried &= {seen.name for seen in sightings if seen.heartbeat < 0}
        return self._witness.dead(sightings, asked_at, anyio.current_time())

    async def _requeue_jobs_of(self, dead: Sequence[tuple[str, int]], swept: Swept) -> None:
        """Charges a crash, but for what somebody left behind that said goodbye: a row that was locked then."""
        buried: Sequence[str] = ()
        if with_row := [(name, heartbeat) for name, heartbeat in dead if heartbeat >= 0]:
            self._buried.update(name for name, _ in with_row)  # also where the reply is lost
            buried = await self._store.bury(with_row)
            self._buried.difference_update({name for name, _ in with_row}.difference(buried))
        gone = [name for name, heartbeat in dead if heartbeat < 0 and name not in self._buried]
        swept.dead = (*sorted(self._buried), *gone)
        for names, crashed in ((self._buried, True), (gone, False)):
            taken = await self._store.requeue(names, crashed=crashed, buried=True) if names else []
            failed = sum(job.status == "failed" for job in taken)
            swept.failed += failed
            swept.requeued += len(taken) - failed
        if buried or swept.requeued or swept.failed:
            publish(JobsRequeued(swept.dead, swept.requeued, swept.failed))

    async def _fold(self, swept: Swept) -> None:
        swept.folded = await self._store.fold()

    async def _park_the_unknown(self) -> None:
        """Jobs of unknown tasks stand in the way of others only when there are many."""
        census = await self._store.take_census()
        if census is None:
            return
        while census.parked and await self._store.unpark():
            pass
        while census.queued >= WORTH_PARKING and await self._store.park():
            pass

    async def _care_for_days(self, swept: Swept) -> None:
        swept.made = tuple(day.isoformat() for day in await self._store.make_days())
        swept.retired = tuple(day.isoformat() for day in await self._store.retire_days(self._retention))
        swept.dropped = tuple(await self._drop_retired_days())
        days = DaysChanged(swept.made, swept.retired, swept.dropped)
        if days != DaysChanged():
            publish(days)
        if not swept.retired:  # else something may have stood in the way of dropping them
            self._days_are_due_at = anyio.current_time() + DAYS_INTERVAL

    async def _drop_retired_days(self) -> list[str]:
        dropped = []
        for retired in await self._store.retired_days():
            try:
                if await self._store.drop_day(retired):
                    dropped.append(retired.day.isoformat())
            except DatabaseAway:  # a long transaction stands in the way: the day is empty and can wait
                break
        return dropped
