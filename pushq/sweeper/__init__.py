"""Upkeep that any supervisor may do, beside the others, without a leader.

A sweep is a list of chores. Each chore is bounded, safe to repeat, and skips what another sweeper is doing. A chore
that fails, for a lock, a missing right or any other objection of the database, does not stop the other chores. A chore
that finds the database away ends the sweep; the next sweep is soon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

import anyio

from pushq.errors import DatabaseAway, DatabaseRefused, DatabaseTrouble, StatementRolledBack, UnexpectedState
from pushq.events import (
    ChoreDone,
    ChoreFailed,
    DatabaseBack,
    DatabaseLost,
    DaysChanged,
    JobsPurged,
    JobsRequeued,
    publish,
)
from pushq.sweeper import witness
from pushq.sweeper.store import Forgotten, Store
from pushq.sweeper.witness import Witness

FOLDED_AT_ONCE = 20_000
"""Entries of the tallies' log folded by one statement, in about half a second."""
LONGEST_FOLD = 2.0
"""Seconds that one sweep folds. Then the other chores have their turn, and the next sweep follows at once."""
GUEST = "guest:"
"""How the names of guests begin."""
DAYS_INTERVAL = 300.0
"""Seconds between two checks of the days. Days are made three ahead."""
FORGOTTEN_AT_ONCE = 10_000
"""Closed windows of unique keys deleted by one statement."""
LONGEST_PURGE = 2.0
"""Seconds that one sweep purges. The rest waits for the next sweep, so that others are served meanwhile."""
FEWEST_BLOCKS, MOST_BLOCKS = 1, 512
"""Blocks that a step of the purge looks at."""
PURGED_AT_ONCE = 2_500
"""Jobs deleted by a step, in some 10 ms where nobody else is at work."""
SHORT_STEP, LONG_STEP = 10.0, 25.0
"""Milliseconds. After a shorter step the next looks at twice as many blocks, after a longer one at half as many."""

RATES_AT_ONCE = 10_000
"""Rates whose bursts are whole again, deleted by one statement."""
STAMPED_AT_ONCE = 2_000
"""Jobs that one statement looks at, and gives the needs that rules say."""
LONGEST_STAMPING = 2.0
"""Seconds for which one sweep looks for jobs without those needs."""

ARTIFACTS_AT_ONCE = 1_000
"""Artifacts whose jobs are looked up by one statement, in some 20 ms."""
FEWEST_LOOKS = 5
LONGEST_FORGETTING = 2.0
"""Seconds for which one sweep deletes artifacts, as long as it finds some."""


@dataclass(slots=True)
class Swept:
    """What a sweep did. made, retired, dropped: days as YYYY-MM-DD. purged: jobs that a queue's `keep` was over for.

    stamped: jobs that got the needs that rules say. folded: entries of the tallies' log.

    artifacts: how many went, since their jobs are gone, or their writers. troubles: a sentence for each chore that
    failed, and will be tried again.
    """

    dead: tuple[str, ...] = ()
    requeued: int = 0
    failed: int = 0
    made: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    purged: int = 0
    stamped: int = 0
    folded: int = 0
    artifacts: int = 0
    troubles: tuple[str, ...] = ()


Chore: TypeAlias = Callable[[Swept], Awaitable[list[str] | None]]
"""Notes in Swept what was done. Returns a sentence for each trouble."""


class Sweeper:
    """One supervisor's sweeper. retention in seconds.

    `takes_heartbeats`: whether the database took the supervisor's last heartbeat.
    """

    def __init__(self, store: Store, *, retention: float, takes_heartbeats: Callable[[], bool] = lambda: True) -> None:
        self._store = store
        self._takes_heartbeats = takes_heartbeats
        self._retention = timedelta(seconds=retention)
        self._witness = Witness()
        self._dead: list[tuple[str, int]] = []  # (name, heartbeat), as last seen
        self._declared_dead = set[str]()  # by this sweeper; jobs of theirs may be left
        self._days_are_due_at = 0.0
        self._is_behind = False  # more tallies are left to fold
        self.purged = 0
        """Jobs purged so far."""
        self._has_rules = False  # a queue says how long its jobs are kept
        self._is_purging = False  # more jobs are left to purge, or to look at
        self._blocks = 128
        self._needs_stamped = 0  # see Folded
        self._stamped_for = 0  # the rules for which the last pass over all jobs began
        self._stamped_to: UUID | None = None  # the job after which the pass goes on
        self._is_stamping = False  # more jobs are left to look at
        self._looked_at: UUID | None = None  # the artifact after which the next look begins
        self._failed_since: dict[str, float] = {}  # by chore

    async def run(self, interval: float) -> None:
        """Sweeps every `interval` seconds until cancelled."""
        lost_at: float | None = None
        while True:
            try:
                await self.sweep()
            except DatabaseTrouble as error:
                lost_at = lost_at or anyio.current_time()
                publish(DatabaseLost(str(error)))
            else:
                if lost_at:
                    publish(DatabaseBack(anyio.current_time() - lost_at))
                lost_at = None
            await anyio.sleep(0 if self._is_behind else interval)

    async def observe(self) -> None:
        """Only observes the supervisors, the first half of finding the dead."""
        await self._watch(Swept())

    async def sweep(self) -> Swept:
        """Does every chore once. Raises DatabaseAway, and DatabaseRefused when the supervisors may not be read."""
        swept = Swept()
        await self._try("watch", swept, self._watch)
        await self._try("requeue", swept, self._requeue_jobs_of_the_dead)
        if is_time := anyio.current_time() >= self._days_are_due_at:
            await self._try("windows", swept, self._forget_windows)
            await self._try("webhooks", swept, self._rest_inserts)
            self._stamped_for = -1  # any rules
            await self._try("days", swept, self._care_for_days)
            await self._try("artifacts", swept, self._care_for_artifacts)
        await self._try("fold", swept, self._fold)
        if self._has_rules:
            await self._try("purge", swept, self._purge)
        if self._is_stamping or self._needs_stamped != self._stamped_for:
            await self._try("stamp", swept, self._stamp)
        if is_time and not self._is_stamping:  # jobs may have to lose what the last rule gave them
            await self._try("limits", swept, self._rest_limits)
        await self._try("census", swept, self._count_jobs)
        return swept

    async def sweep_whole(self) -> Swept:
        """Sweeps, purges all days and folds all tallies, however many: for a process that sweeps only once."""
        swept = await self.sweep()
        while self._is_purging:
            await self._try("purge", swept, self._purge)
        while self._is_stamping:
            await self._try("stamp", swept, self._stamp)
        while self._is_behind:
            await self._try("fold", swept, self._fold)
        return swept

    async def _try(self, name: str, swept: Swept, chore: Chore) -> None:
        self._store.take_slowest_answer()
        try:
            troubles = await chore(swept) or []
        except StatementRolledBack as error:
            troubles = [str(error)]
        except DatabaseRefused as error:
            if name == "watch":
                raise
            troubles = [str(error)]
        except DatabaseAway:
            self._witness.forget()  # during an outage no heartbeat arrives, and nobody is dead
            raise
        if self._store.take_slowest_answer() > witness.SLOW_ANSWER:
            self._witness.forget()  # the database may have stalled, and every heartbeat with the database
        self._tell(name, swept, troubles)

    def _tell(self, name: str, swept: Swept, troubles: Sequence[str]) -> None:
        if troubles:
            swept.troubles += tuple(troubles)
            self._failed_since.setdefault(name, anyio.current_time())
            publish(ChoreFailed(name, troubles[0]))
        elif since := self._failed_since.pop(name, None):
            publish(ChoreDone(name, anyio.current_time() - since))

    async def _watch(self, _: Swept) -> None:
        self._dead = []
        asked_at = anyio.current_time()
        try:
            sightings = await self._store.observe()
        except DatabaseTrouble:
            self._witness.forget()
            raise
        if not self._takes_heartbeats():  # a database that takes no writes makes everybody look dead
            self._witness.forget()
            return
        self._declared_dead &= {seen.name for seen in sightings if seen.heartbeat < 0}
        self._dead = self._witness.dead(sightings, asked_at, anyio.current_time())

    async def _requeue_jobs_of_the_dead(self, swept: Swept) -> None:
        """Requeues the jobs of the dead, charged with a crash.

        Exception: a supervisor that has no row, and was not declared dead by this sweeper, said goodbye and could not
        release rows that were locked. Such jobs are released at no charge. A guest says no goodbye: if it has no row,
        another sweeper has declared it dead.
        """
        dead, declared = self._dead, list[str]()
        if with_row := [(name, heartbeat) for name, heartbeat in dead if heartbeat >= 0]:
            self._declared_dead.update(name for name, _ in with_row)  # also where the reply is lost
            declared = await self._store.declare_dead(with_row)
            self._declared_dead.difference_update({name for name, _ in with_row}.difference(declared))
        gone = [name for name, heartbeat in dead if heartbeat < 0 and name not in self._declared_dead]
        swept.dead = (*sorted(self._declared_dead), *gone)
        guests = {name for name in gone if name.startswith(GUEST)}
        for names, crashed in ((self._declared_dead | guests, True), ({*gone} - guests, False)):
            taken = await self._store.requeue(names, crashed=crashed, only_if_dead=True) if names else []
            swept.failed += sum(job.status == "failed" for job in taken)
            swept.requeued += sum(job.status == "queued" for job in taken)
        if declared or swept.requeued or swept.failed:
            publish(JobsRequeued(swept.dead, swept.requeued, swept.failed))

    async def _purge(self, swept: Swept) -> list[str]:
        self._is_purging = False
        until = anyio.current_time() + LONGEST_PURGE
        before, purged, troubles = swept.purged, list[str](), list[str]()
        for day in await self._store.days_to_purge(self._retention):
            day_before, is_over = swept.purged, False
            while not is_over and not self._is_purging:
                step = await self._store.purge_day(day, self._retention, self._blocks, PURGED_AT_ONCE)
                swept.purged += step.purged
                self.purged += step.purged
                self._adapt_blocks(step.milliseconds)
                if step.trouble:
                    troubles.append(f"of the day {day.isoformat()} jobs cannot be purged: {step.trouble}.")
                is_over = step.is_over
                self._is_purging = anyio.current_time() >= until
            if swept.purged > day_before:
                purged.append(day.isoformat())
        if purged:
            publish(JobsPurged(swept.purged - before, tuple(purged)))
        return [*dict.fromkeys(troubles)]

    def _adapt_blocks(self, milliseconds: float) -> None:
        """Blocks differ: they hold small rows or large ones, jobs that go or jobs that stay."""
        if milliseconds > LONG_STEP:
            self._blocks = max(FEWEST_BLOCKS, self._blocks // 2)
        elif milliseconds < SHORT_STEP:
            self._blocks = min(MOST_BLOCKS, self._blocks * 2)

    async def _fold(self, swept: Swept) -> None:
        self._is_behind = False
        until = anyio.current_time() + LONGEST_FOLD
        while not self._is_behind:
            folded = await self._store.fold(FOLDED_AT_ONCE)
            self._has_rules, self._needs_stamped = folded.has_rules, folded.needs_stamped
            swept.folded += folded.entries
            if folded.entries < FOLDED_AT_ONCE:
                return
            self._is_behind = anyio.current_time() >= until

    async def _forget_windows(self, _: Swept) -> None:
        while await self._store.forget_windows(FORGOTTEN_AT_ONCE) == FORGOTTEN_AT_ONCE:
            pass

    async def _rest_inserts(self, _: Swept) -> None:
        await self._store.rest_inserts()

    async def _rest_limits(self, _: Swept) -> None:
        while await self._store.rest_limits(RATES_AT_ONCE) == RATES_AT_ONCE:
            pass

    async def _stamp(self, swept: Swept) -> None:
        """Goes on with a pass over all unfinished jobs. A pass begins when rules change, and with the chores of days.

        Jobs that lack what a rule says are those of transactions that were open when the rule was made, and those that
        somebody else had locked.
        """
        until = anyio.current_time() + LONGEST_STAMPING
        if not self._is_stamping:
            self._stamped_for, self._stamped_to = self._needs_stamped, None
        self._is_stamping = self._needs_stamped > 0
        while self._is_stamping and anyio.current_time() < until:
            stamped, self._stamped_to = await self._store.stamp(self._stamped_to, STAMPED_AT_ONCE)
            swept.stamped += stamped
            self._is_stamping = self._stamped_to is not None

    async def _count_jobs(self, _: Swept) -> None:
        await self._store.take_census()

    async def _care_for_days(self, swept: Swept) -> list[str]:
        swept.made = tuple(day.isoformat() for day in await self._store.make_days())
        emptied = await self._store.retire_days(self._retention)
        swept.retired = tuple(one.day.isoformat() for one in emptied if not one.trouble)
        troubles = [f"the day {one.day} cannot be emptied: {one.trouble}." for one in emptied if one.trouble]
        troubles += await self._drop_retired_days(swept)
        days = DaysChanged(swept.made, swept.retired, swept.dropped)
        if days != DaysChanged():
            publish(days)
        if not swept.retired:  # else the next sweep drops days that could not be dropped now
            self._days_are_due_at = anyio.current_time() + DAYS_INTERVAL
        return troubles

    async def _care_for_artifacts(self, swept: Swept) -> list[str]:
        """Deletes artifacts whose jobs are gone: first those past retention, which are the oldest.

        Of the others, whose jobs were purged or deleted, some thousands are looked at, and more as long as that helps.
        """
        swept.artifacts += await self._store.forget_drafts()
        until, step = anyio.current_time() + LONGEST_FORGETTING, await self._forget(swept, None)
        while step.outlived and anyio.current_time() < until:
            step = await self._forget(swept, step.last)
        looks = FEWEST_LOOKS if step.looked == ARTIFACTS_AT_ONCE else 0
        while looks > 0 or (step.forgotten and step.last and anyio.current_time() < until):
            step = await self._forget(swept, self._looked_at or step.last)
            self._looked_at, looks = step.last, looks - 1 if step.last else 0
        await self._store.forget_artifact_bytes()
        left = await self._store.retire_artifact_days()
        return [f"the artifacts of the day {one.day} cannot be emptied: {one.trouble}." for one in left]

    async def _forget(self, swept: Swept, after: UUID | None) -> Forgotten:
        step = await self._store.forget_artifacts(after, ARTIFACTS_AT_ONCE)
        swept.artifacts += step.forgotten
        return step

    async def _drop_retired_days(self, swept: Swept) -> list[str]:
        """Returns why days cannot be dropped. A user's view of a day keeps only the day."""
        troubles = []
        for retired in await self._store.retired_days():
            try:
                if await self._store.drop_day(retired) and retired.parent == "jobs":
                    swept.dropped += (retired.day.isoformat(),)
            except UnexpectedState as error:
                if error.is_timeout:  # a long transaction: the days are empty, and can wait
                    break
                troubles.append(f"the emptied day {retired.day} cannot be dropped: {error}")
            except DatabaseAway:
                break
        return troubles
