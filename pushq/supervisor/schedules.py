"""Keeps the schedules: sleeps until the first slot of all is due, and inserts its job.

Theory of operation. All supervisors do the same, and whoever is first has done it (0030_schedules): no supervisor is
needed, and none is in another's way. A supervisor looks

    when the bell rings     a row has changed; pools hear it on the channel pushq_schedules, and tell the supervisor
    when a slot is near     AHEAD seconds before the first slot of all, which the last look has told
    once a poll interval    in case that a notification was lost; each second while no pool hears any

Of several supervisors, one is mostly the first. Those that come second stand back: they try each slot a moment later,
and find it kept. If it is not, they keep it, and are the first from then on.

A look is one statement, and one look into an index, however many schedules there are. When slots are near, their rows
are read, and what is to be done is computed, so that it only need be sent when they are due. Every instant is the
database's: a supervisor measures only how long ago the database said how long there is left.

While there is no schedule, there is no connection, and no look: the supervisor's survey tells when the first one comes.

If the database's clock was ahead by more than an hour, and is set back, the schedules that were kept meanwhile have
their next slots computed anew. Else they would rest until the clock is there again. After a smaller step they rest, so
that no slot has two jobs.

Slots that are long due, after a week without a supervisor, say, are kept in pieces, and those that are due just now
come first. An expression that cannot be read, or a job that the database refuses, concerns its schedule alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from math import inf

import anyio
from anyio.lowlevel import checkpoint

from pushq.database.patience import Outage, is_rejection, piecewise, reconnect_delay
from pushq.database.session import Session
from pushq.errors import DatabaseTrouble, ScheduleError
from pushq.events import ChoreDone, ChoreFailed, publish
from pushq.schedules import Missed, Step, Times, read, step
from pushq.supervisor.store import DueSchedule, NewSchedule, Outlook, Store

CHORE = "schedules"
"""Its name in the log."""
SETTINGS = {"statement_timeout": "2s"}
"""Of the session. Sooner than the session's own deadline: the server then says that it was the statement, as where a
trigger of the user's hangs, and the slot at fault is found."""
AHEAD = 1.0
"""Seconds before it is due that a slot is read."""
STAND_BACK = 0.01
"""Seconds after a slot is due at which a supervisor tries it that has come second before."""
FRESH = 1.0
"""Seconds after it was due until a slot counts as backlog, which waits for others."""
MOST = 500
"""Schedules that a look reads, of the first and of the last to be due."""
MOST_JOBS = 500
"""Jobs of backlog that are inserted by one statement, in some 50 ms."""
COMPUTED_AT_ONCE = 100
LONGEST_COMPUTING = 0.05
"""Schedules, and seconds, whose first slots are computed between two looks. A hostile expression takes 0.1 s alone."""
AT_A_TIME = 20
"""Slots that are computed between two turns of the event loop."""
RING_PAUSE = 0.05
"""Seconds between two looks, at least, while the bell rings on."""
LOOK_WHEN_DEAF = 1.0
"""Seconds between two looks while no pool hears the bell."""
STEP = timedelta(minutes=1)
"""By how much the database's clock must have been set back to be noticed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.5
"""Seconds until the next look while slots are due whose rows somebody has locked. The pause doubles."""


class Schedules:
    """One supervisor's part. shared: for looks while there is no schedule. own: for all else, on `session`.

    poll_interval: in seconds, 0: never. hears: whether a pool hears notifications; None: pools only poll.
    """

    def __init__(
        self, shared: Store, own: Store, session: Session, *, poll_interval: float, hears: Callable[[], bool] | None
    ) -> None:
        self._shared = shared
        self._own = own
        self._session = session
        self._poll_interval = poll_interval
        self._hears = hears
        self._bell = anyio.Event()
        self._are_any = False
        self._first_at: datetime | None = None  # no slot is due before
        self._looked_at = -inf
        self._looked_at_all = -inf  # not only at slots from the first on
        self._clock: datetime | None = None  # what the database's clock showed when this process's showed 0
        self._has_computed = False
        self._stand_back = 0.0
        self._in_vain = 0  # looks in a row that found slots due, and kept none
        self._outage = Outage()
        self._troubled_since: float | None = None

    def ring(self) -> None:
        """A schedule has changed."""
        self._bell.set()

    def note_survey(self, *, has_schedules: bool) -> None:
        """What the supervisor's survey says. While there are schedules, the looks say the same, and sooner."""
        if has_schedules and not self._are_any:
            self.ring()

    async def run(self) -> None:
        """Keeps the schedules until cancelled."""
        failures = 0
        while True:
            try:
                await self._look()
            except DatabaseTrouble as error:
                failures += 1
                self._first_at = None
                self._note(error)
                await anyio.sleep(reconnect_delay(failures).total_seconds())
            else:
                failures = 0
                self._note_answer()

    # Looks ----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Looks once, does what is due, and waits for the reason of the next look."""
        now = anyio.current_time()
        if self._bell.is_set() or now - self._looked_at_all >= self._look_every:
            self._bell = anyio.Event()
            self._first_at, self._looked_at_all = None, now
        self._looked_at = now
        outlook = await (self._own if self._are_any else self._shared).schedules_outlook(self._first_at)
        self._are_any, self._first_at = outlook.are_any, outlook.first_at
        if outlook.are_any and self._was_set_back(outlook.now) and await self._own.right_schedules():
            self._first_at = None
        elif not outlook.are_any:
            await self._session.close()
            await self._bell.wait()
        elif outlook.any_to_compute and not self._has_computed and await self._compute():
            self._first_at, self._has_computed = None, True  # the next look is for slots that are due
            return
        elif outlook.due_in is not None and outlook.due_in <= AHEAD:
            await self._keep_due()
        else:
            await self._rung_within(self._until_next_look(outlook))
        self._has_computed = False

    def _until_next_look(self, outlook: Outlook) -> float:
        """Seconds until the next look, if no slot is near."""
        if outlook.any_to_compute:
            return 0.0 if self._has_computed else LONGEST_PAUSE  # somebody has locked their rows
        return inf if outlook.due_in is None else outlook.due_in - AHEAD / 2

    def _was_set_back(self, now: datetime) -> bool:
        """Whether the database's clock was set back since the last look, or may have been before the first."""
        before, self._clock = self._clock, now - timedelta(seconds=anyio.current_time())
        return before is None or self._clock < before - STEP

    @property
    def _look_every(self) -> float:
        """Seconds between two looks at all schedules, at most."""
        if not self._poll_interval:
            return inf
        is_deaf = self._hears is not None and not self._hears()
        return min(self._poll_interval, LOOK_WHEN_DEAF) if is_deaf else self._poll_interval

    async def _rung_within(self, seconds: float) -> bool:
        """Waits for the bell, not longer than that, nor than until the next poll. Returns whether the bell has rung."""
        until_poll = self._looked_at_all + self._look_every - anyio.current_time()
        with anyio.move_on_after(max(0.0, min(seconds, until_poll))):
            await anyio.sleep(max(0.0, self._looked_at + RING_PAUSE - anyio.current_time()))
            await self._bell.wait()
            return True
        return False

    # New schedules --------------------------------------------------------------------------------------------

    async def _compute(self) -> int:
        """Computes the first slots of new and changed schedules. Returns how many were set."""
        found = list[tuple[NewSchedule, datetime | None, str | None]]()
        until = anyio.current_time() + LONGEST_COMPUTING
        for new in await self._own.schedules_to_compute(COMPUTED_AT_ONCE):
            first, error = _first_slot(new)
            found.append((new, first, error))
            await checkpoint()
            if anyio.current_time() > until:
                break
        return await self._own.set_next(found)

    # Slots that are due ---------------------------------------------------------------------------------------

    async def _keep_due(self) -> None:
        """Keeps the schedules that are due. Those that are about to be due are prepared, and kept on time."""
        rows = await self._own.schedules_due(self._first_at, AHEAD, MOST)
        answered_at = anyio.current_time()
        coming = [row for row in rows if row.due_in > 0 and not row.is_retry]
        fresh = [row for row in rows if -FRESH < row.due_in <= 0 and not row.is_retry]
        backlog = [row for row in rows if row.due_in <= (0 if row.is_retry else -FRESH)]
        kept = await self._keep(await _steps(fresh)) if fresh else 0
        if backlog:
            kept += await self._keep(await _steps(backlog, most_jobs=MOST_JOBS))
        if kept or not rows:
            self._in_vain = 0
        elif fresh or backlog:
            await self._wait_in_vain(coming[0].due_in if coming else inf)
        if coming and not backlog and not (fresh and not kept):
            await self._keep_coming(await _steps(coming), answered_at)

    async def _keep_coming(self, steps: Sequence[tuple[DueSchedule, Step]], answered_at: float) -> None:
        """Keeps each when it is due. Ends early when the bell rings, since another may be due sooner now."""
        left = list(steps)
        while left:
            due_at = answered_at + left[0][0].due_in
            if await self._rung_within(due_at + self._stand_back - anyio.current_time()):
                return
            elapsed = anyio.current_time() - answered_at
            if left[0][0].due_in > elapsed:  # the poll's turn
                return
            due = [one for one in left if one[0].due_in <= elapsed]
            left = left[len(due) :]
            kept = await self._keep(due)
            self._stand_back = STAND_BACK if 2 * kept < len(due) else 0.0

    async def _wait_in_vain(self, due_in: float) -> None:
        """Rows that somebody has locked are left until later. Others are due meanwhile."""
        pause = min(FIRST_PAUSE * 2.0 ** min(self._in_vain, 20), LONGEST_PAUSE)
        self._in_vain += 1
        await self._rung_within(min(pause, due_in))

    async def _keep(self, steps: Sequence[tuple[DueSchedule, Step]]) -> int:
        """Takes the steps. Returns how many were taken, or have their error in the row."""
        try:
            return await self._own.keep_schedules(steps)
        except DatabaseTrouble as error:
            if not is_rejection(error):
                raise
        # A timeout, or a trigger that raises at the commit: which step is it?
        refused = await piecewise(self._own.keep_schedules, steps)
        for (due, _), reason in refused:
            await self._own.refuse_slot(due, reason)
        return len(steps)

    # Trouble --------------------------------------------------------------------------------------------------

    def _note(self, error: DatabaseTrouble) -> None:
        if not is_rejection(error):
            self._outage.note(error)
            return
        self._troubled_since = self._troubled_since or anyio.current_time()
        publish(ChoreFailed(CHORE, str(error)))

    def _note_answer(self) -> None:
        self._outage.end()
        if self._troubled_since is not None:
            publish(ChoreDone(CHORE, anyio.current_time() - self._troubled_since))
            self._troubled_since = None


def _first_slot(new: NewSchedule) -> tuple[datetime | None, str | None]:
    """The first slot of a new schedule, or why there is none."""
    try:
        return _times(new.cron, new.zone, None).after(new.since, new.since), None
    except ScheduleError as error:
        return None, str(error)


async def _steps(rows: Sequence[DueSchedule], most_jobs: float = inf) -> list[tuple[DueSchedule, Step]]:
    """What is to be done about schedules when they are due, up to so many jobs."""
    steps, jobs = list[tuple[DueSchedule, Step]](), 0
    for row in rows:
        if jobs >= most_jobs:
            break
        one = _step(row)
        steps.append((row, one))
        jobs += max(1, len(one.slots))
        if not len(steps) % AT_A_TIME:
            await checkpoint()
    return steps


def _step(row: DueSchedule) -> Step:
    return _step_at(row.cron, row.zone, row.every, row.missed, row.next_at, max(row.now, row.next_at))


@lru_cache(maxsize=2 * MOST)  # a look after a ring finds the same slots again
def _step_at(
    cron: str | None, zone: str, every: timedelta | None, missed: Missed, due: datetime, now: datetime
) -> Step:
    try:
        return step(_times(cron, zone, every), missed, due, now)
    except ScheduleError as error:  # this host does not know the zone, say
        return Step((due,), None, str(error))


@lru_cache(maxsize=1024)
def _times(cron: str | None, zone: str, every: timedelta | None) -> Times:
    return read(cron, zone, every)
