"""A supervisor keeps schedules: each slot has one job, and whatever is wrong with one schedule stays with it."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from pushq.database.statements import statement
from pushq.events import ChoreDone, ChoreFailed, Event, subscribe
from tests.support.jobs import Connection, count
from tests.support.roles import a_login_each
from tests.support.schedules import (
    fall_due,
    has_error,
    has_next,
    have_slots,
    keeping,
    row_of,
    slots_of,
    write,
)
from tests.support.waiting import eventually


async def test_a_row_that_names_name_cron_and_task_is_enough(database_url: str, connection: Connection) -> None:
    written = await write(connection, "report", cron="30 2 * * *", zone="Europe/Berlin")
    assert written["next_at"] is None
    async with keeping(database_url):
        row = await has_next(connection, "report")
        assert row["next_at"] > datetime.now(UTC)
        assert row["next_at"].minute == 30
        slot = await fall_due(connection, "report")
        assert await have_slots(connection, "report") == [slot]
    row = await row_of(connection, "report")
    assert (row["last_at"], row["error"]) == (slot, None)
    assert row["next_at"] > slot
    job = await connection.fetchrow("select * from pushq.jobs")
    assert job is not None
    assert (job["task"], job["payload"], job["queue"], job["tenant_id"]) == ("echo", "{}", "default", None)


async def test_a_job_has_what_its_schedule_says(database_url: str, connection: Connection) -> None:
    await write(
        connection, "full", payload='{"value": 1}', queue="reports", needs='{"gpu": 1}', tenant_id="acme", missed="all"
    )
    async with keeping(database_url):
        await has_next(connection, "full")
        await fall_due(connection, "full")
        await have_slots(connection, "full")
    job = await connection.fetchrow("select payload, queue, needs, tenant_id from pushq.jobs")
    assert tuple(job or ()) == ('{"value": 1}', "reports", '{"gpu": 1}', "acme")


async def test_an_interval_needs_no_supervisor_to_know_its_next_slot(connection: Connection) -> None:
    row = await write(connection, "often", every=timedelta(minutes=5))
    assert row["next_at"] - row["since"] == timedelta(minutes=5)
    await connection.execute("set timezone = 'Europe/Berlin'")
    row = await write(connection, "daily", every=timedelta(days=1))
    assert row["next_at"] - row["since"] == timedelta(hours=24)
    stored = "select every::text from pushq.schedules where name = 'daily'"
    assert await connection.fetchval(stored) == "24:00:00"


async def test_the_first_slot_may_be_chosen(database_url: str, connection: Connection) -> None:
    first = datetime(2026, 1, 1, 12, tzinfo=UTC)
    row = await write(connection, "from.noon", every=timedelta(days=1), next_at=first)
    assert row["next_at"] == first
    async with keeping(database_url):
        (slot,) = await have_slots(connection, "from.noon")
    assert (slot - first) % timedelta(days=1) == timedelta(0)
    assert (await row_of(connection, "from.noon"))["next_at"] - slot == timedelta(days=1)


async def test_a_slot_has_one_job_however_many_keep_schedules(database_url: str, connection: Connection) -> None:
    names = [f"s{number}" for number in range(20)]
    for name in names:
        await write(connection, name, every=timedelta(seconds=1), missed="all")
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(keeping(database_url))
        for name in names:
            await have_slots(connection, name, 4)
    for name in names:
        found = await slots_of(connection, name)
        assert all(other - one == timedelta(seconds=1) for one, other in pairwise(found)), name
        assert (await row_of(connection, name))["last_at"] == found[-1]


# Missed slots ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missed", "jobs"), [("once", 1), ("skip", 0), ("all", 7 * 24 * 60)])
async def test_after_a_week_without_a_supervisor(
    database_url: str, connection: Connection, missed: str, jobs: int
) -> None:
    await write(connection, "minutely", cron="* * * * *", missed=missed)
    await write(connection, "marker", cron="* * * * *")
    async with keeping(database_url):
        await has_next(connection, "minutely")
        await connection.execute("update pushq.schedules set paused_at = now()")
    await connection.execute(
        "update pushq.schedules set paused_at = null, next_at = date_trunc('minute', now()) - interval '7 days'"
    )
    async with keeping(database_url):
        await have_slots(connection, "marker")

        async def is_done() -> bool:
            return bool(
                await connection.fetchval("select next_at > now() from pushq.schedules where name = 'minutely'")
            )

        await eventually(is_done, within=40)
    found = await slots_of(connection, "minutely")
    assert jobs <= len(found) <= jobs + 2
    assert found == sorted(set(found))


async def test_a_backlog_keeps_nobody_else_waiting(database_url: str, connection: Connection) -> None:
    await connection.execute(
        "insert into pushq.schedules (name, every, task, missed, next_at) "
        "select 'old' || n, '1 second', 'echo', 'all', now() - interval '20 days' from generate_series(1, 600) as n"
    )
    row = await write(connection, "now", every=timedelta(seconds=1))
    async with keeping(database_url):
        await have_slots(connection, "now", 2)
        left = "select count(*) from pushq.schedules where next_at < now() - interval '19 days'"
        assert await connection.fetchval(left) > 500
    assert row["next_at"]


async def test_what_was_written_while_no_supervisor_was_there_counts_from_then(
    database_url: str, connection: Connection
) -> None:
    await write(connection, "minutely", cron="* * * * *", since=datetime.now(UTC) - timedelta(days=7))
    async with keeping(database_url):
        await have_slots(connection, "minutely")
    assert len(await slots_of(connection, "minutely")) <= 2


# Changes --------------------------------------------------------------------------------------------------------


async def test_other_times_have_the_next_slot_computed_anew(database_url: str, connection: Connection) -> None:
    await write(connection, "report", cron="0 0 1 1 *")
    async with keeping(database_url):
        before = (await has_next(connection, "report"))["next_at"]
        await connection.execute("update pushq.schedules set zone = 'Pacific/Auckland'")

        async def is_other() -> bool:
            return (await row_of(connection, "report"))["next_at"] not in (None, before)

        await eventually(is_other)
        await connection.execute("update pushq.schedules set cron = null, every = '1 hour'")
    row = await row_of(connection, "report")
    assert row["next_at"] - row["since"] == timedelta(hours=1)


async def test_a_step_that_was_computed_for_other_times_is_not_taken(connection: Connection) -> None:
    await write(connection, "report", every=timedelta(hours=1))
    slot = await fall_due(connection, "report")
    asked = (
        "select pushq.keep_schedules(array[id], array[$1::timestamptz], array[$2::text], array[zone], array[every], "
        "array[now() + interval '1 day'], array[null::text], array[1], array[$1::timestamptz]) from pushq.schedules"
    )
    assert await connection.fetchval(asked, slot, "0 0 * * *") == 0
    assert await connection.fetchval(asked, slot - timedelta(hours=1), None) == 0
    assert await connection.fetchval(asked, slot, None) == 1
    assert await connection.fetchval(asked, slot, None) == 0
    assert await count(connection) == 1


async def test_a_slot_that_is_not_due_by_the_database_s_clock_is_not_kept(connection: Connection) -> None:
    row = await write(connection, "report", every=timedelta(hours=1))
    asked = (
        "select pushq.keep_schedules(array[id], array[next_at], array[cron], array[zone], array[every], "
        "array[next_at + every], array[null::text], array[1], array[next_at]) from pushq.schedules"
    )
    assert await connection.fetchval(asked) == 0
    assert (await row_of(connection, "report"))["next_at"] == row["next_at"]


async def test_a_paused_schedule_inserts_nothing_and_does_not_make_up_for_its_pause(
    database_url: str, connection: Connection
) -> None:
    await write(connection, "report", cron="* * * * *", missed="all")
    await write(connection, "often", every=timedelta(hours=1), missed="all")
    await write(connection, "marker")
    async with keeping(database_url):
        for name in ("report", "often", "marker"):
            await has_next(connection, name)
        assert await connection.fetchval("select pushq.pause_schedule('report')") == "paused"
        assert await connection.fetchval("select pushq.pause_schedule('often')") == "paused"
        grid = await fall_due(connection, "often", "90 minutes")
        for name in ("report", "marker"):
            await fall_due(connection, name, "1 hour")
        await have_slots(connection, "marker")
        assert await connection.fetchval("select pushq.resume_schedule('report')") == "resumed"
        assert await connection.fetchval("select pushq.resume_schedule('often')") == "resumed"
        row = await has_next(connection, "report")
        assert row["next_at"] > row["since"]
        often = await row_of(connection, "often")
        assert often["next_at"] > often["since"]
        assert (often["next_at"] - grid) % timedelta(hours=1) == timedelta(0)
    assert await slots_of(connection, "often") == []


async def test_a_pause_ends_before_the_next_slot_as_if_it_had_not_been(connection: Connection) -> None:
    row = await write(connection, "often", every=timedelta(hours=1))
    await connection.execute("update pushq.schedules set paused_at = now()")
    await connection.execute("update pushq.schedules set paused_at = null")
    assert (await row_of(connection, "often"))["next_at"] == row["next_at"]


async def test_a_schedule_that_is_deleted_while_its_slot_is_due_inserts_all_or_nothing(
    database_url: str, connection: Connection
) -> None:
    await write(connection, "going", every=timedelta(hours=1))
    await write(connection, "marker", every=timedelta(hours=1))
    async with connection.transaction():
        await fall_due(connection, "going")
        await connection.execute("delete from pushq.schedules where name = 'going'")
        other = await asyncpg.connect(database_url)
        await fall_due(other, "marker")
        async with keeping(database_url):
            await have_slots(other, "marker")
        await other.close()
    assert await slots_of(connection, "going") == []


async def test_a_row_that_somebody_has_locked_delays_itself_alone(database_url: str, connection: Connection) -> None:
    for name in ("locked", "free"):
        await write(connection, name, every=timedelta(hours=1))
        await fall_due(connection, name)
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("select from pushq.schedules where name = 'locked' for update")
        async with keeping(database_url):
            await have_slots(connection, "free")
            await fall_due(connection, "free", "1 day")
            await have_slots(connection, "free", 2)
    assert await slots_of(connection, "locked") == []
    async with keeping(database_url):
        await have_slots(connection, "locked")
    await other.close()


async def test_a_new_row_that_somebody_has_locked_delays_itself_alone(
    database_url: str, connection: Connection
) -> None:
    for name in ("locked", "free"):
        await write(connection, name)
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("select from pushq.schedules where name = 'locked' for update")
        async with keeping(database_url):
            await has_next(connection, "free")
            await fall_due(connection, "free")
            await have_slots(connection, "free")
            assert (await row_of(connection, "locked"))["next_at"] is None
    async with keeping(database_url):
        await has_next(connection, "locked")
    await other.close()


async def test_expressions_that_take_long_to_compute_keep_no_slot_waiting(
    database_url: str, connection: Connection
) -> None:
    """Each of them takes 0.1 s."""
    await connection.execute(
        "insert into pushq.schedules (name, cron, task) "
        "select 'hostile' || n, n || ' * */20 * 1L', 'echo' from generate_series(1, 40) as n"
    )
    await write(connection, "due", every=timedelta(hours=1))
    await fall_due(connection, "due")
    async with keeping(database_url):
        await have_slots(connection, "due")
        assert await connection.fetchval("select count(*) from pushq.schedules where error is null") > 1
        told = "select count(*) = 40 from pushq.schedules where error like '%never comes due%'"
        await eventually(lambda: connection.fetchval(told), within=30)


# What is wrong with one -----------------------------------------------------------------------------------------


async def test_an_expression_that_cannot_be_read_sets_its_error_and_stops_nobody(
    database_url: str, connection: Connection
) -> None:
    bad = {"a": "0 0 30 2 *", "b": "1--100000000 * * * *", "c": "* * */20 * 1L", "d": "\x1b[2J\x07", "e": "9" * 500}
    for name, cron in bad.items():
        await write(connection, name, cron=cron)
    await write(connection, "zone", zone="Mars/Olympus")
    await write(connection, "fine")
    async with keeping(database_url):
        await has_next(connection, "fine")
        errors = [await has_error(connection, name) for name in (*bad, "zone")]
        await fall_due(connection, "fine")
        await have_slots(connection, "fine")
        assert all(error.isprintable() for error in errors)
        assert (await row_of(connection, "zone"))["error"].startswith("The zone 'Mars/Olympus' is not known")
        await connection.execute("update pushq.schedules set cron = '0 0 28 2 *' where name = 'a'")
        row = await has_next(connection, "a")
        assert (row["error"], row["next_at"] is None) == (None, False)


async def test_a_zone_that_was_abolished_costs_no_slot_and_is_told(database_url: str, connection: Connection) -> None:
    await write(connection, "old", zone="US/Pacific-New", next_at=datetime(2026, 6, 1, tzinfo=UTC))
    async with keeping(database_url):
        assert await have_slots(connection, "old") == [datetime(2026, 6, 1, tzinfo=UTC)]
        row = await has_next(connection, "old")
    assert (row["next_at"], row["error"][:25]) == (None, "The zone 'US/Pacific-New'")


QUOTA = """
create function public.quota() returns trigger language plpgsql as $$
begin
    if new.tenant_id = 'acme' then {what}; end if;
    return new;
end $$;
create trigger quota before insert on pushq.jobs_unfinished for each row execute function public.quota();
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise exception 'acme is over its quota'", "no job was inserted: acme is over its quota"),
        ("perform 1 / 0", "no job was inserted: division by zero"),
        ("raise lock_not_available", "no job was inserted: lock_not_available"),
        ("perform pg_sleep(10)", "no job was inserted: "),
    ],
)
async def test_a_job_that_the_database_refuses_is_tried_again_and_stops_nobody(
    database_url: str, connection: Connection, what: str, said: str
) -> None:
    await connection.execute(QUOTA.format(what=what))
    names = [f"fine{number}" for number in range(5)]
    for name in ("refused", *names):
        await write(connection, name, tenant_id="acme" if name == "refused" else None, every=timedelta(hours=1))
    slot = await fall_due(connection, "refused")
    for name in names:
        await fall_due(connection, name)
    async with keeping(database_url, longest="0.3s"):
        for name in names:
            await have_slots(connection, name)
        error = await has_error(connection, "refused")
        assert said in error
        row = await row_of(connection, "refused")
        assert (row["next_at"], row["last_at"]) == (slot, None)
        assert row["retry_at"] > row["next_at"]
        await connection.execute("drop trigger quota on pushq.jobs_unfinished")
        await connection.execute("update pushq.schedules set error = null where name = 'refused'")
        assert await have_slots(connection, "refused") == [slot]
    assert (await row_of(connection, "refused"))["retry_at"] is None


async def test_a_refusal_at_the_commit_stops_nobody(database_url: str, connection: Connection) -> None:
    await connection.execute(
        QUOTA.format(what="raise exception 'at the commit'").replace("create trigger", "create constraint trigger")
        .replace("before insert", "after insert")
        .replace("for each row", "deferrable initially deferred for each row")
    )  # fmt: skip
    await write(connection, "refused", tenant_id="acme", every=timedelta(hours=1))
    await write(connection, "fine", every=timedelta(hours=1))
    for name in ("refused", "fine"):
        await fall_due(connection, name)
    async with keeping(database_url):
        await have_slots(connection, "fine")
        assert "at the commit" in await has_error(connection, "refused")


async def test_a_refused_slot_is_tried_again_ever_more_seldom(connection: Connection) -> None:
    await write(connection, "refused", every=timedelta(hours=1))
    for ago, pause in (("0 seconds", 5), ("100 seconds", 50), ("2 days", 300)):
        await connection.execute("update pushq.schedules set next_at = now() - $1::text::interval", ago)
        await connection.execute("select pushq.refuse_slot(id, next_at, 'no') from pushq.schedules")
        left = await connection.fetchval(
            "select extract(epoch from retry_at - clock_timestamp())::float8 from pushq.schedules"
        )
        assert pause - 3 < left < pause + 3


async def test_needs_that_capacities_do_not_allow_any_more_are_told(database_url: str, connection: Connection) -> None:
    await write(connection, "big", needs='{"gpu": 4}', every=timedelta(hours=1))
    await write(connection, "fine", every=timedelta(hours=1))
    for name in ("big", "fine"):
        await fall_due(connection, name)
    async with keeping(database_url):
        await have_slots(connection, "fine")
        assert "the job needs 4 of 'gpu', whose capacity is 1" in await has_error(connection, "big")


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"name": ""}, "schedules_name_has_1_to_200_characters"),
        ({"name": "x" * 201}, "schedules_name_has_1_to_200_characters"),
        ({"task": "x" * 201}, "schedules_task_has_1_to_200_characters"),
        ({"queue": "x" * 201}, "schedules_queue_has_1_to_200_characters"),
        ({"queue": "pushq.webhooks"}, "schedules_queue_pushq_webhooks_is_for_pushq"),
        ({"tenant_id": ""}, "schedules_tenant_id_has_1_to_200_characters"),
        ({"cron": "x" * 10_000}, "schedules_cron_has_1_to_500_characters"),
        ({"cron": ""}, "schedules_cron_has_1_to_500_characters"),
        ({"zone": "x" * 101}, "schedules_zone_has_1_to_100_characters"),
        ({"payload": "[]"}, "schedules_payload_is_object"),
        ({"payload": '"' + "x" * 10 + '"'}, "schedules_payload_is_object"),
        ({"needs": '{"key:7": 1}'}, "schedules_needs_are_those_of_a_job"),
        ({"needs": "7"}, "schedules_needs_are_those_of_a_job"),
        ({"missed": "twice"}, "schedules_missed_is_once_skip_or_all"),
        ({"next_at": datetime(1969, 1, 1, tzinfo=UTC)}, "schedules_next_at_is_between_1970_and_9999"),
    ],
)
async def test_a_row_that_cannot_be_is_refused_by_a_rule_with_a_name(
    connection: Connection, columns: dict[str, Any], rule: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as raised:
        await write(connection, **({"name": "report"} | columns))
    assert raised.value.constraint_name == rule


@pytest.mark.parametrize(
    ("every", "rule"),
    [
        ("0", "schedules_every_is_1_second_to_3660_days"),
        ("-1 hour", "schedules_every_is_1_second_to_3660_days"),
        ("0.5 s", "schedules_every_is_1_second_to_3660_days"),
        ("4000 days", "schedules_every_is_1_second_to_3660_days"),
        ("10000 years", "schedules_every_has_no_months"),
        ("1 month", "schedules_every_has_no_months"),
        ("2 years", "schedules_every_has_no_months"),
    ],
)
async def test_an_interval_that_cannot_be_is_refused_by_a_rule_with_a_name(
    connection: Connection, every: str, rule: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as raised:
        await connection.execute(
            "insert into pushq.schedules (name, every, task) values ('often', $1::text::interval, 'echo')", every
        )
    assert raised.value.constraint_name == rule


async def test_a_schedule_has_times_of_one_kind_and_its_name_once(connection: Connection) -> None:
    for columns in ({"cron": None}, {"cron": "0 * * * *", "every": timedelta(hours=1)}):
        with pytest.raises(asyncpg.CheckViolationError, match="schedules_have_a_cron_or_an_interval"):
            await write(connection, "report", **columns)
    await write(connection, "report")
    await write(connection, "report", tenant_id="acme")
    for tenant in (None, "acme"):
        with pytest.raises(asyncpg.UniqueViolationError, match="schedules_name_is_given_once_a_tenant"):
            await write(connection, "report", tenant_id=tenant)
    await connection.execute(
        "insert into pushq.schedules (name, cron, task) values ('report', '5 * * * *', 'echo') "
        "on conflict (tenant_id, name) do update set cron = excluded.cron"
    )
    assert await connection.fetchval("select count(*) from pushq.schedules where cron = '5 * * * *'") == 1


# By hand --------------------------------------------------------------------------------------------------------


async def test_run_inserts_a_job_now_and_leaves_the_next_slot(connection: Connection) -> None:
    row = await write(connection, "report", every=timedelta(hours=1), payload='{"n": 1}', paused_at=datetime.now(UTC))
    job = await connection.fetchval("select pushq.run_schedule('report')")
    found = await connection.fetchrow("select id, payload, correlation_id from pushq.jobs")
    assert tuple(found or ()) == (job, '{"n": 1}', "schedule report")
    assert await row_of(connection, "report") == row
    for function in ("run_schedule", "pause_schedule", "resume_schedule"):
        assert await connection.fetchval(f"select pushq.{function}('nope')::text") in (None, "unknown")


async def test_a_long_name_is_cut_in_the_jobs_correlation_id(connection: Connection) -> None:
    await write(connection, "é" * 200, every=timedelta(hours=1))
    await connection.execute("select pushq.run_schedule(name) from pushq.schedules")
    assert len(await connection.fetchval("select correlation_id from pushq.jobs")) == 200


async def test_who_produces_jobs_writes_schedules_and_reads_no_payload(
    database_url: str, connection: Connection
) -> None:
    async with a_login_each(connection, database_url) as logins:
        producer = await asyncpg.connect(logins.url_as("producer"))
        for _ in range(2):
            await producer.execute(
                "insert into pushq.schedules (name, cron, task, payload) values ('report', '0 2 * * *', 'echo', $1) "
                "on conflict (tenant_id, name) do update set cron = excluded.cron, payload = $1",
                '{"n": 1}',
            )
        assert await producer.fetchval("select name from pushq.schedules") == "report"
        assert await producer.fetchval("select pushq.pause_schedule('report')") == "paused"
        assert await producer.fetchval("select pushq.run_schedule('report')")
        for forbidden in (
            "select payload from pushq.schedules",
            "update pushq.schedules set last_at = now()",
            "update pushq.schedules set declared_at = now()",
            "select pushq.refuse_slot(id, now(), 'no') from pushq.schedules",
            "truncate pushq.schedules",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await producer.execute(forbidden)
        await producer.execute("delete from pushq.schedules where name = 'report'")
        await producer.close()
        observer = await asyncpg.connect(logins.url_as("observer"))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await observer.execute("select pushq.run_schedule('report')")
        await observer.close()
        await write(connection, "kept")  # whoever finds no schedule waits for a bell that nobody rings here
        async with keeping(logins.url_as("worker")):
            await has_next(connection, "kept")
            await fall_due(connection, "kept")
            await have_slots(connection, "kept")


# Clocks ---------------------------------------------------------------------------------------------------------


AHEAD = "update pushq.schedules set since = now() + $1::text::interval, next_at = next_at + $1::text::interval"


async def test_a_database_s_clock_that_was_years_ahead_leaves_no_schedule_resting_for_years(
    database_url: str, connection: Connection
) -> None:
    await write(connection, "cron", next_at=datetime.now(UTC), missed="skip")
    every = await write(connection, "every", every=timedelta(hours=1))
    await connection.execute(AHEAD, "10 years")
    async with keeping(database_url) as schedules:  # that starts when the clock is right again
        for name in ("cron", "every"):
            await eventually(partial(_is_soon, connection, name))
        row = await row_of(connection, "every")
        assert (row["next_at"] - every["next_at"]) % timedelta(hours=1) == timedelta(0)

        await connection.execute(AHEAD, "10 years")
        assert schedules._clock is not None
        schedules._clock += timedelta(days=3650)  # that was there when the clock was wrong
        await eventually(lambda: _is_soon(connection, "cron"))
    assert await count(connection) == 0


async def _is_soon(connection: Connection, name: str) -> bool:
    row = await row_of(connection, name)
    return bool(row["next_at"] and row["next_at"] < datetime.now(UTC) + timedelta(hours=1, minutes=1))


async def test_a_database_s_clock_that_is_set_back_a_little_lets_no_slot_come_twice(
    database_url: str, connection: Connection
) -> None:
    await write(connection, "every", every=timedelta(minutes=1))
    await connection.execute(AHEAD, "30 minutes")
    before = await row_of(connection, "every")
    await write(connection, "marker", every=timedelta(hours=1))
    await fall_due(connection, "marker")
    async with keeping(database_url):
        await have_slots(connection, "marker")
    assert await row_of(connection, "every") == before


# The database ---------------------------------------------------------------------------------------------------


async def test_a_database_that_ends_the_connection_costs_no_slot(database_url: str, connection: Connection) -> None:
    await write(connection, "often", every=timedelta(seconds=1), missed="all")
    async with keeping(database_url):
        for jobs in (1, 2, 3):
            await have_slots(connection, "often", jobs)
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'test: schedules' "
                "and datname = current_database()"
            )
        await have_slots(connection, "often", 5)
    found = await slots_of(connection, "often")
    assert all(other - one == timedelta(seconds=1) for one, other in pairwise(found))


async def test_a_missing_right_is_told_and_waited_out(database_url: str, connection: Connection) -> None:
    told = list[Event]()
    await write(connection, "report", every=timedelta(hours=1))
    await fall_due(connection, "report")
    await connection.execute("alter table pushq.schedules rename column zone to away")
    with subscribe(told.append):
        async with keeping(database_url):
            await eventually(lambda: _is_told(told, ChoreFailed))
            await connection.execute("alter table pushq.schedules rename column away to zone")
            await have_slots(connection, "report")
            await eventually(lambda: _is_told(told, ChoreDone))


async def _is_told(told: list[Event], kind: type[Event]) -> bool:
    return any(isinstance(event, kind) for event in told)


async def test_without_a_schedule_there_is_no_connection(database_url: str, connection: Connection) -> None:
    sessions = (
        "select count(*) from pg_stat_activity where application_name = 'test: schedules' "
        "and datname = current_database()"
    )
    await write(connection, "report")
    async with keeping(database_url) as schedules:
        await has_next(connection, "report")
        assert await connection.fetchval(sessions) == 1
        await connection.execute("delete from pushq.schedules")

        async def is_closed() -> bool:
            return bool(await connection.fetchval(f"select ({sessions}) = 0"))

        await eventually(is_closed)
        await write(connection, "report")
        schedules.note_survey(has_schedules=True)
        await has_next(connection, "report")


async def test_changes_ring_and_a_schedule_that_is_moved_on_does_not(database_url: str, connection: Connection) -> None:
    heard = list[str]()
    ear = await asyncpg.connect(database_url)
    await ear.add_listener("pushq_schedules", lambda *said: heard.append(said[-1]))

    async def rung() -> int:
        """How often since the last time. A notification of our own comes after all others."""
        before = len(heard)
        await ear.execute("notify pushq_schedules, 'end'")
        await eventually(partial(_has_heard, heard, before))
        count = heard.index("end")
        heard.clear()
        return count

    await write(connection, "report", every=timedelta(hours=1))
    assert await rung() == 1
    for change in ("cron = '0 * * * *', every = null", "cron = null, every = '1 hour'", "next_at = now()"):
        await connection.execute(f"update pushq.schedules set {change}")
        assert await rung() == 1, change
    async with keeping(database_url):
        await have_slots(connection, "report")
    assert await rung() == 0
    for change in ("paused_at = now()", "payload = '{\"n\": 1}'", "last_at = null"):
        await connection.execute(f"update pushq.schedules set {change}")
        assert await rung() == 0, change
    async with connection.transaction():
        await connection.execute("set local pushq.notify = 'off'")
        await write(connection, "quiet", every=timedelta(hours=1))
    assert await rung() == 0
    await ear.close()


async def _has_heard(heard: list[str], before: int) -> bool:
    return "end" in heard[before:]


async def test_a_table_that_is_copied_back_is_as_it_was(connection: Connection) -> None:
    await write(
        connection, "report", next_at=datetime(2026, 1, 1, tzinfo=UTC), last_at=datetime(2025, 1, 1, tzinfo=UTC)
    )
    await write(connection, "bad", cron="x", error="'x' cannot be read.")
    await write(connection, "every", every=timedelta(hours=1), paused_at=datetime.now(UTC))
    before = await connection.fetch("select * from pushq.schedules order by name")
    dump = BytesIO()
    await connection.copy_from_table("schedules", schema_name="pushq", output=dump)
    await connection.execute("delete from pushq.schedules")
    dump.seek(0)
    await connection.copy_to_table("schedules", schema_name="pushq", source=dump)
    assert await connection.fetch("select * from pushq.schedules order by name") == before


async def test_looks_are_by_index_however_many_schedules_there_are(connection: Connection) -> None:
    await connection.execute(
        "insert into pushq.schedules (name, cron, task, next_at) "
        "select 's' || n, '0 2 * * *', 'echo', now() + n * interval '1 minute' from generate_series(1, 5000) as n"
    )
    await connection.execute("vacuum analyze pushq.schedules")
    for name, given in (("schedules_outlook", "null"), ("schedules_due", "null, 1.0, 500")):
        await connection.execute(f"prepare {name} as {statement(name)}")
        plan = await connection.fetch(f"explain (analyze, buffers, format text) execute {name}({given})")
        text = "\n".join(row[0] for row in plan)
        touched = sum(int(part) for part in re.findall(r"Buffers: shared hit=(\d+)", text)[:1])
        assert touched < 30, text


async def test_under_a_pinned_horizon_a_look_passes_no_slot_that_was_kept(
    database_url: str, connection: Connection
) -> None:
    """A supervisor knows an instant before which no slot is due, and looks from there on."""
    await write(connection, "often", every=timedelta(seconds=1), next_at=datetime.now(UTC) - timedelta(hours=2))
    pinning = await asyncpg.connect(database_url)
    async with pinning.transaction(isolation="repeatable_read"):
        await pinning.execute("select count(*) from pushq.schedules")
        for _ in range(3000):
            await connection.execute("update pushq.schedules set next_at = next_at + interval '1 second'")
        first = await connection.fetchval("select next_at from pushq.schedules")
        await connection.execute(f"prepare look as {statement('schedules_outlook')}")

        async def touched(since: str) -> int:
            plan = await connection.fetch(f"explain (analyze, buffers, format text) execute look({since})")
            text = "\n".join(row[0] for row in plan)
            return sum(map(int, re.findall(r"Buffers: shared hit=(\d+)", text)[:1]))

        assert await touched(f"'{first.isoformat()}'") < await touched("null") / 3
    await pinning.close()
