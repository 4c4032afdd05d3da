"""When schedules are due: cron expressions and intervals → slots.              (pure, but for files of time zones)

A slot is an instant at which a schedule is to insert a job. All instants are in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pushq.errors import ScheduleError

Missed: TypeAlias = Literal["once", "skip", "all"]
"""What becomes of slots for which no supervisor was there: one job for all of them, none, or a job for each."""
MISSED: tuple[Missed, ...] = ("once", "skip", "all")

LONGEST_CRON = 500
SHORTEST, LONGEST = timedelta(seconds=1), timedelta(days=3660)
"""The bounds of an interval."""
LATE = timedelta(minutes=1)
"""A slot is missed if a supervisor comes to it later than this, or after the slot that follows."""
MADE_UP = timedelta(days=31)
"""How far back `all` makes up for missed slots."""
MOST_SLOTS = 100
"""Slots of a schedule that are kept at once. The rest follows."""

_SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """A schedule as code declares it. payload: JSON text. Either cron or every is None."""

    name: str
    task: str
    cron: str | None
    zone: str
    every: timedelta | None
    payload: str
    queue: str
    needs: Mapping[str, int] | None
    missed: Missed


@dataclass(frozen=True, slots=True)
class Every:
    """An interval. Slots lie on the grid of any slot."""

    every: timedelta

    def after(self, instant: datetime, slot: datetime) -> datetime:
        """The first slot after the instant. slot: any slot."""
        return slot + self.every * ((instant - slot) // self.every + 1)

    def latest(self, instant: datetime, slot: datetime) -> datetime:
        """The last slot that is not after the instant. slot: any slot that is not after the instant."""
        return slot + self.every * ((instant - slot) // self.every)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a zone, as Debian's cron reads it.

    A job of fixed hours that falls into the hour that is left out in spring runs once, when the clock has moved on. One
    that falls into the doubled hour in autumn runs once, in the first of the two. A job of every hour (`*`) runs as
    often as the hours come.
    """

    expression: str
    zone: tzinfo

    def after(self, instant: datetime, slot: datetime) -> datetime:  # noqa: ARG002 - as Every
        """The first slot after the instant. Raises ScheduleError if there is none within fifty years."""
        found = self._slots(instant)
        try:
            # In the second of two equal hours, the library begins with slots of the first.
            return next(later for later in found if later > instant)
        except StopIteration:
            raise ScheduleError(f"{_shown(self.expression)} never comes due.") from None

    def latest(self, instant: datetime, slot: datetime) -> datetime:
        """The last slot that is not after the instant. slot: any slot that is not after the instant."""
        exclusive = instant.replace(microsecond=max(1, instant.microsecond))
        found = next(self._slots(exclusive, is_reverse=True), slot)
        return found if slot < found <= instant else slot

    def _slots(self, instant: datetime, *, is_reverse: bool = False) -> Iterator[datetime]:
        for slot in _cron(self.expression, instant.astimezone(self.zone), is_reverse=is_reverse):
            yield slot.astimezone(UTC)


Times: TypeAlias = Cron | Every


def read(cron: str | None, zone: str, every: timedelta | None) -> Times:
    """The times of a schedule. Raises ScheduleError, a sentence, if they cannot be read.

    cron: five fields, or a shorthand such as @daily. zone: a name such as Europe/Berlin. every: in place of cron.
    """
    if (cron is None) == (every is None):
        raise ScheduleError("A schedule has either a cron expression or an interval.")
    if every is not None:
        if not SHORTEST <= every <= LONGEST:
            raise ScheduleError(f"An interval is 1 second to {LONGEST.days} days, not {every}.")
        return Every(every)
    assert cron is not None
    where = _zone(zone)
    times = Cron(_five_fields(cron), where)
    _refuse_unreadable(times.expression)
    return times


def _zone(name: str) -> tzinfo:
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found; a path, or a character that no path has; a directory
        raise ScheduleError(
            f"The zone {_shown(name)} is not known on the supervisor's host; write one such as Europe/Berlin, or "
            "install the package tzdata, with tzdata-legacy for old names."
        ) from None


def _five_fields(cron: str) -> str:
    if len(cron) > LONGEST_CRON:
        raise ScheduleError(f"A cron expression has at most {LONGEST_CRON} characters, not {len(cron):,}.")
    fields = _SHORTHANDS.get(cron.strip().lower(), cron).split()
    if len(fields) == 6:
        raise ScheduleError(f"{_shown(cron)} has six fields; for seconds, give an interval in place of cron.")
    if len(fields) != 5:
        raise ScheduleError(
            f"{_shown(cron)} has not five fields: minute, hour, day of the month, month, day of the week."
        )
    return " ".join(fields)


def _refuse_unreadable(cron: str) -> None:
    """Raises ScheduleError for an expression that the library does not read, at any time of the year."""
    some_day = datetime(2024, 1, 1, tzinfo=UTC)
    try:
        CronSim(cron, some_day)
    except CronSimError as error:
        fields = cron.split()
        if str(error) == "Bad day-of-month" and _is_readable(" ".join([*fields[:3], "*", fields[4]])):
            raise ScheduleError(f"{_shown(cron)} never comes due: none of its months has the day.") from None
        raise ScheduleError(f"{_shown(cron)} cannot be read: {str(error).lower()}.") from None
    except Exception as error:  # noqa: BLE001 - whatever the library raises: the expression is at fault
        raise ScheduleError(f"{_shown(cron)} cannot be read: {type(error).__name__}.") from None


def _is_readable(cron: str) -> bool:
    try:
        CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def _cron(expression: str, instant: datetime, *, is_reverse: bool) -> Iterator[datetime]:
    try:
        yield from CronSim(expression, instant, reverse=is_reverse)
    except OverflowError:  # beyond the year 9999
        return


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


@dataclass(frozen=True, slots=True)
class Step:
    """What to do about a schedule whose slot is due.

    slots: those for which jobs are inserted, the oldest first. becomes: the next slot; None: there is none, for the
    reason `error`.
    """

    slots: tuple[datetime, ...]
    becomes: datetime | None
    error: str | None = None


def step(times: Times, missed: Missed, due: datetime, now: datetime) -> Step:
    """due: the slot that is due, the first for which no job has been inserted. now: not before the slot."""
    try:
        following = times.after(due, due)
        if following > now:  # no other slot is due
            return Step(() if missed == "skip" and now - due > LATE else (due,), following)
        if missed == "all":
            return _some_of_all(times, due, now)
        newest = times.latest(now, due)
        return Step(() if missed == "skip" and now - newest > LATE else (newest,), times.after(now, due))
    except ScheduleError as error:
        return Step((due,), None, str(error))


def _some_of_all(times: Times, due: datetime, now: datetime) -> Step:
    slot = due if due >= now - MADE_UP else times.after(now - MADE_UP, due)
    slots = list[datetime]()
    while slot <= now and len(slots) < MOST_SLOTS:
        slots.append(slot)
        slot = times.after(slot, due)
    return Step(tuple(slots), slot)


def upcoming(times: Times, first: datetime) -> Iterator[datetime]:
    """The first slot and those that follow. Raises ScheduleError if there is no further one."""
    slot = first
    while True:
        yield slot
        slot = times.after(slot, first)
