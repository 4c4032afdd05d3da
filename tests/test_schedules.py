"""When schedules are due: daylight-saving changes, leap days, missed slots, and what cannot be read."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.errors import ScheduleError
from pushq.schedules import LATE, MOST_SLOTS, Every, Missed, Step, read, step, upcoming

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def slots(cron: str, zone: str, after: str, count: int) -> list[str]:
    """In the zone, without the year."""
    times = read(cron, zone, None)
    instant = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = islice(upcoming(times, times.after(instant, instant)), count)
    return [slot.astimezone(ZoneInfo(zone)).isoformat()[5:] for slot in found]


# Daylight saving ------------------------------------------------------------------------------------------------


def test_a_time_that_the_clock_leaves_out_comes_due_when_the_clock_has_moved_on() -> None:
    assert slots("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 3) == [
        "03-29T03:00:00+02:00", "03-30T02:30:00+02:00", "03-31T02:30:00+02:00",
    ]  # fmt: skip


def test_two_times_that_the_clock_leaves_out_come_due_once() -> None:
    assert slots("0,30 2 * * *", "Europe/Berlin", "2026-03-29T00:00", 2) == [
        "03-29T03:00:00+02:00", "03-30T02:00:00+02:00",
    ]  # fmt: skip


def test_a_time_that_the_clock_shows_twice_comes_due_once() -> None:
    assert slots("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2) == [
        "10-25T02:30:00+02:00", "10-26T02:30:00+01:00",
    ]  # fmt: skip
    assert slots("30 1 * * *", "America/New_York", "2026-10-31T12:00", 2) == [
        "11-01T01:30:00-04:00", "11-02T01:30:00-05:00",
    ]  # fmt: skip


def test_every_half_hour_comes_due_in_both_hours_and_in_none_that_is_left_out() -> None:
    assert slots("*/30 * * * *", "Europe/Berlin", "2026-10-25T01:45", 5) == [
        "10-25T02:00:00+02:00", "10-25T02:30:00+02:00", "10-25T02:00:00+01:00", "10-25T02:30:00+01:00",
        "10-25T03:00:00+01:00",
    ]  # fmt: skip
    assert slots("*/30 * * * *", "Europe/Berlin", "2026-03-29T01:15", 3) == [
        "03-29T01:30:00+01:00", "03-29T03:00:00+02:00", "03-29T03:30:00+02:00",
    ]  # fmt: skip


def test_no_slot_is_told_that_has_passed_already_in_the_second_of_two_equal_hours() -> None:
    second = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1).astimezone(UTC)
    times = read("30 2 * * *", "Europe/Berlin", None)
    assert times.after(second, second) == utc("2026-10-26T01:30")
    assert times.latest(second, utc("2026-10-25T00:30")) == utc("2026-10-25T00:30")


@given(
    cron=st.sampled_from(
        ["* * * * *", "*/7 * * * *", "30 2 * * *", "0,30 1-3 * * *", "15 */2 * * 0", "0 0 29 2 *", "59 23 L * *"]
    ),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]),
    seconds=st.integers(1_577_836_800, 2_051_222_400),  # 2020 to 2035
)
def test_slots_ascend_and_the_latest_is_the_one_before_the_next(cron: str, zone: str, seconds: int) -> None:
    times, now = read(cron, zone, None), datetime.fromtimestamp(seconds, UTC)
    first = times.after(now, now)
    assert first > now
    following = list(islice(upcoming(times, first), 4))
    assert all(one < other for one, other in pairwise(following))
    assert first <= times.latest(following[2], first) <= following[2]


# Leap days, intervals -------------------------------------------------------------------------------------------


def test_a_leap_day_comes_due_every_four_years() -> None:
    times = read("0 12 29 2 *", "UTC", None)
    found = list(islice(upcoming(times, times.after(utc("2026-01-01"), utc("2026-01-01"))), 2))
    assert found == [utc("2028-02-29T12:00"), utc("2032-02-29T12:00")]
    assert slots("0 12 28-31 2 *", "UTC", "2027-02-01", 2) == ["02-28T12:00:00+00:00", "02-28T12:00:00+00:00"]


def test_the_last_day_of_a_month_is_the_leap_day_in_a_leap_year() -> None:
    assert slots("0 0 L 2 *", "UTC", "2028-01-01", 1) == ["02-29T00:00:00+00:00"]


def test_slots_of_an_interval_lie_on_the_grid_of_the_first_however_late_a_look_is() -> None:
    times, first = Every(timedelta(minutes=7)), utc("2026-01-01T00:03")
    assert times.after(utc("2026-01-01T00:03"), first) == utc("2026-01-01T00:10")
    assert times.after(utc("2026-01-01T01:00"), first) == utc("2026-01-01T01:06")
    assert times.latest(utc("2026-01-01T01:00"), first) == utc("2026-01-01T00:59")


def test_a_day_s_interval_is_24_hours_over_a_change_of_the_clock() -> None:
    times, first = Every(timedelta(days=1)), utc("2026-03-28T11:00")
    assert times.after(first, first) == utc("2026-03-29T11:00")


def test_shorthands_are_expressions() -> None:
    assert slots("@daily", "UTC", "2026-01-01T05:00", 1) == ["01-02T00:00:00+00:00"]
    assert slots(" @Hourly ", "UTC", "2026-01-01T05:30", 1) == ["01-01T06:00:00+00:00"]


# What cannot be read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "zone", "sentence"),
    [
        ("0 0 30 2 *", "UTC", "'0 0 30 2 *' never comes due: none of its months has the day."),
        ("0 0 31 4,6,9,11 *", "UTC", "never comes due"),
        ("1--100000000 * * * *", "UTC", "'1--100000000 * * * *' cannot be read: bad minute."),
        ("0-99999999999 * * * *", "UTC", "cannot be read: bad minute"),
        ("*/0 * * * *", "UTC", "cannot be read: bad minute"),
        ("* * * * 5#9", "UTC", "cannot be read: bad day-of-week"),
        ("60 * * * *", "UTC", "cannot be read: bad minute"),
        ("* * * *", "UTC", "has not five fields"),
        ("0 0 * * * *", "UTC", "has six fields; for seconds, give an interval in place of cron."),
        ("", "UTC", "has not five fields"),
        ("@reboot", "UTC", "has not five fields"),
        ("* " * 5000, "UTC", "A cron expression has at most 500 characters, not 10,000."),
        ("\x1b[2J * * * *", "UTC", "'\\x1b[2J * * * *' cannot be read"),
        ("²L * * * *", "UTC", "cannot be read"),
        ("* * * * ²L", "UTC", "cannot be read"),
        ("* * * * *", "Europe/Nowhere", "The zone 'Europe/Nowhere' is not known on the supervisor's host"),
        ("* * * * *", "US/Pacific-New", "The zone 'US/Pacific-New' is not known"),
        ("* * * * *", "../../etc/passwd", "is not known"),
        ("* * * * *", "/etc/localtime", "is not known"),
        ("* * * * *", "Europe", "is not known"),
        ("* * * * *", "a\x07b", "The zone 'a\\x07b' is not known"),
        ("* * * * *", "", "is not known"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(cron: str, zone: str, sentence: str) -> None:
    with pytest.raises(ScheduleError) as raised:
        read(cron, zone, None)
    assert sentence in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 250


def test_an_expression_that_can_be_read_and_never_comes_due_is_told_so() -> None:
    times = read("* * */20 * 1L", "UTC", None)
    with pytest.raises(ScheduleError, match="never comes due"):
        times.after(utc("2026-01-01"), utc("2026-01-01"))


@pytest.mark.parametrize("every", [timedelta(0), timedelta(seconds=-1), timedelta(days=3661)])
def test_an_interval_that_cannot_be_is_told_so(every: timedelta) -> None:
    with pytest.raises(ScheduleError, match="An interval is 1 second to 3660 days"):
        read(None, "UTC", every)


def test_a_schedule_has_times_of_one_kind() -> None:
    for cron, every in ((None, None), ("* * * * *", timedelta(hours=1))):
        with pytest.raises(ScheduleError, match="either a cron expression or an interval"):
            read(cron, "UTC", every)


@given(st.text(st.sampled_from("0123456789*/,-#LW?@ SUNJAN\t\n²\x00é"), max_size=60))
def test_no_text_raises_anything_else(cron: str) -> None:
    with suppress(ScheduleError):
        times = read(cron, "Europe/Berlin", None)
        slot = times.after(utc("2026-06-01"), utc("2026-06-01"))
        assert times.latest(slot, slot) == slot


# Missed slots ---------------------------------------------------------------------------------------------------

HOURLY = read("0 * * * *", "UTC", None)
DUE = utc("2026-06-01T10:00")


@pytest.mark.parametrize("missed", ["once", "skip", "all"])
def test_a_slot_that_is_met_in_time_has_its_job(missed: Missed) -> None:
    assert step(HOURLY, missed, DUE, DUE + timedelta(seconds=3)) == Step((DUE,), utc("2026-06-01T11:00"))


def test_a_slot_that_is_met_late_is_made_up_for_unless_it_is_to_be_skipped() -> None:
    late = DUE + LATE + timedelta(seconds=1)
    assert step(HOURLY, "once", DUE, late).slots == (DUE,)
    assert step(HOURLY, "all", DUE, late).slots == (DUE,)
    assert step(HOURLY, "skip", DUE, late) == Step((), utc("2026-06-01T11:00"))


def test_once_inserts_one_job_for_all_missed_slots_that_of_the_last() -> None:
    now = utc("2026-06-08T10:20")
    assert step(HOURLY, "once", DUE, now) == Step((utc("2026-06-08T10:00"),), utc("2026-06-08T11:00"))
    assert step(HOURLY, "skip", DUE, now) == Step((), utc("2026-06-08T11:00"))
    assert step(HOURLY, "skip", DUE, utc("2026-06-08T10:00:59")).slots == (utc("2026-06-08T10:00"),)


@pytest.mark.parametrize("times", [read("* * * * *", "Europe/Berlin", None), read(None, "UTC", timedelta(minutes=1))])
def test_all_makes_up_for_each_minute_of_a_week_in_order_and_in_bounded_pieces(times: object) -> None:
    assert isinstance(times, type(HOURLY) | Every)
    due, now, made = DUE, DUE + timedelta(days=7, seconds=5), list[datetime]()
    while due <= now:
        one = step(times, "all", due, now)
        assert 1 <= len(one.slots) <= MOST_SLOTS
        assert one.becomes
        made += one.slots
        due = one.becomes
    assert made == [DUE + timedelta(minutes=n) for n in range(7 * 24 * 60 + 1)]


def test_all_makes_up_for_the_last_31_days_alone() -> None:
    now = utc("2026-06-08T10:20")
    one = step(HOURLY, "all", utc("1970-01-01"), now)
    assert one.slots[0] == utc("2026-05-08T11:00")


def test_a_schedule_that_was_due_in_1970_takes_no_time() -> None:
    every_second = read(None, "UTC", timedelta(seconds=1))
    now = utc("2026-06-08T10:20:30")
    assert step(every_second, "once", utc("1970-01-01"), now) == Step((now,), now + timedelta(seconds=1))


def test_a_slot_whose_schedule_never_comes_due_again_has_its_job_and_says_why_there_is_no_other() -> None:
    never = read("* * */20 * 1L", "UTC", None)
    one = step(never, "once", DUE, DUE)
    assert (one.slots, one.becomes) == ((DUE,), None)
    assert "never comes due" in (one.error or "")
