"""A queue's finished jobs are kept as long as the queue says, and nothing goes that somebody still needs."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from pushq import Queue
from pushq.errors import JobUnknown
from pushq.events import Event, JobsPurged, subscribe
from tests.support.days import make_day
from tests.support.history import finish_in_the_past, sweeping, swept
from tests.support.jobs import Connection, count, finished, has_count, insert, row_of
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

AN_HOUR = timedelta(hours=1)
A_DAY = timedelta(days=1)
PURGE = "select * from pushq.purge_day($1, '7 days', $2, $3)"


def today() -> date:
    return datetime.now(UTC).date()


async def keep(connection: Connection, queue: str, keep: str | None, keep_failed: str | None = None) -> None:
    await connection.execute("select pushq.keep($1, $2::text::interval, $3::text::interval)", queue, keep, keep_failed)


async def ids(connection: Connection) -> set[UUID]:
    return {row["id"] for row in await connection.fetch("select id from pushq.jobs where finished_on < 'infinity'")}


async def purge(connection: Connection, day: date, blocks: int = 512, most: int = 5000) -> asyncpg.Record:
    row = await connection.fetchrow(PURGE, day, blocks, most)
    assert row
    return row


# Which jobs go --------------------------------------------------------------------------------------------------------


async def test_a_finished_job_goes_when_the_keep_of_its_queue_is_over(
    database_url: str, connection: Connection
) -> None:
    await keep(connection, "mail", "1 hour")
    await finish_in_the_past(connection, 3, ago=2 * AN_HOUR, queue="mail")
    young = await finish_in_the_past(connection, ago=AN_HOUR / 2, queue="mail")
    other = await finish_in_the_past(connection, ago=2 * AN_HOUR)

    assert await swept(database_url) == 3
    assert await ids(connection) == {*young, *other}


async def test_failed_jobs_are_kept_for_a_time_of_their_own(database_url: str, connection: Connection) -> None:
    await keep(connection, "mail", "1 hour", "3 hours")
    await keep(connection, "news", None, "1 hour")
    await keep(connection, "post", "1 hour", None)
    left = []
    for queue, ago, status, is_left in (
        ("mail", 2, "failed", True),
        ("mail", 4, "failed", False),
        ("mail", 2, "cancelled", False),
        ("news", 2, "failed", False),
        ("news", 2, "succeeded", True),
        ("post", 2, "failed", False),
    ):
        job = await finish_in_the_past(connection, ago=ago * AN_HOUR, queue=queue, status=status)
        left += job if is_left else []

    assert await swept(database_url) == 4
    assert await ids(connection) == set(left)


async def test_the_star_speaks_for_the_queues_that_say_nothing(database_url: str, connection: Connection) -> None:
    await keep(connection, "*", "1 hour", "3 hours")
    await keep(connection, "mail", "4 hours")
    await keep(connection, "news", None, "1 hour")
    kept = await finish_in_the_past(connection, ago=2 * AN_HOUR, queue="mail")
    kept += await finish_in_the_past(connection, ago=2 * AN_HOUR, queue="unheard.of", status="failed")
    await finish_in_the_past(connection, ago=2 * AN_HOUR, queue="unheard.of")
    await finish_in_the_past(connection, ago=2 * AN_HOUR, queue="news")
    await finish_in_the_past(connection, ago=2 * AN_HOUR, queue="news", status="failed")

    assert await swept(database_url) == 3
    assert await ids(connection) == set(kept)


@pytest.mark.parametrize("time_to_live", ["0", "2 seconds"])
async def test_the_shortest_time_to_live_is_a_quarter_of_a_minute_so_that_waits_see_the_end(
    database_url: str, connection: Connection, time_to_live: str
) -> None:
    await keep(connection, "default", time_to_live)
    async with sweeping(database_url) as sweeper:
        [job] = await finish_in_the_past(connection, ago=timedelta(seconds=10))
        assert (await sweeper.sweep()).purged == 0
        await connection.execute("update pushq.jobs set finished_at = finished_at - interval '10 seconds'")
        await connection.execute("update pushq.purges set next_at = now()")  # moves time, as the line before
        assert (await sweeper.sweep()).purged == 1
    assert await row_of(connection, job) is None


async def test_a_supervisor_purges_jobs_with_a_time_to_live_of_two_seconds(
    database_url: str, connection: Connection
) -> None:
    await keep(connection, "default", "2 seconds")
    with supervising(database_url, SWEEP_INTERVAL="0.2", LOG_LEVEL="debug") as supervisor:
        await finished(connection, *await insert(connection, "echo", 5))
        await connection.execute("update pushq.jobs set finished_at = finished_at - interval '20 seconds'")
        await connection.execute("update pushq.purges set next_at = now()")
        await has_count(connection, 0, "true")
        assert "pushq_jobs_purged_total 5.0" in supervisor.get("/metrics")[1]
        assert f"jobs purged jobs=5 days={today()}" in supervisor.said


async def test_jobs_that_end_later_go_by_a_later_pass(database_url: str, connection: Connection) -> None:
    """Of a day that takes finished jobs, no pass is the last."""
    await keep(connection, "default", "1 hour")
    assert await swept(database_url) == 0
    next_at = await connection.fetchval("select next_at - now() from pushq.purges where day = $1", today())
    assert next_at <= AN_HOUR


async def test_the_purge_is_no_change_by_hand_and_leaves_the_events_with_their_day(
    database_url: str, connection: Connection
) -> None:
    [job] = await insert(connection, "unheard.of")
    await connection.execute("select pushq.cancel($1)", job)
    await connection.execute("update pushq.jobs set finished_at = now() - interval '1 hour'")
    events = "select kind from pushq.job_events where job_id = $1 order by id"
    before = await connection.fetch(events, job)
    await keep(connection, "default", "1 minute")

    assert await swept(database_url) == 1
    assert await connection.fetch(events, job) == before
    assert len(before) == 2


async def test_what_was_purged_is_told_once_a_sweep(database_url: str, connection: Connection) -> None:
    await keep(connection, "default", "1 hour")
    await make_day(connection, date(2020, 1, 1))
    for day in (today(), date(2020, 1, 1)):
        await finish_in_the_past(connection, 2, ago=2 * AN_HOUR, day=day)
    told: list[Event] = []
    with subscribe(told.append):
        async with sweeping(database_url, retention=1e9) as sweeper:
            await sweeper.sweep()
            await sweeper.sweep()
            assert sweeper.purged == 4
    assert [event for event in told if isinstance(event, JobsPurged)] == [
        JobsPurged(4, (today().isoformat(), "2020-01-01"))
    ]


# What stays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tenant", "webhook_s_tenant"), [(None, None), ("acme", "acme"), ("acme", None)])
async def test_a_job_stays_while_a_webhook_has_not_been_delivered(
    database_url: str, connection: Connection, tenant: str | None, webhook_s_tenant: str | None
) -> None:
    await keep(connection, "default", "1 hour")
    first, told, last = sorted(await finish_in_the_past(connection, 3, ago=2 * AN_HOUR, tenant_id=tenant))
    for key, owner in (
        (f"pushq.webhooks {told} url {17:019}", webhook_s_tenant),
        (f"pushq.webhooks {first} url {17:019}", "somebody else"),
        (f"pushq.webhooks {last}", tenant),
        (f"pushq.webhooks {str(last)[:-1]} url", tenant),
        ("zzz", tenant),
    ):
        await insert(connection, "pushq.webhook", queue="pushq.webhooks", unique_key=key, tenant_id=owner)

    assert await swept(database_url) == 2
    assert await ids(connection) == {told}

    await connection.execute("delete from pushq.jobs_unfinished; update pushq.purges set next_at = now()")
    assert await swept(database_url) == 1


async def test_a_job_that_is_retried_at_that_moment_runs_again(database_url: str, connection: Connection) -> None:
    await keep(connection, "default", "1 hour")
    [retried, _] = await finish_in_the_past(connection, 2, ago=2 * AN_HOUR)
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        assert await other.fetchval("select pushq.retry($1)", retried) == "queued"
        assert await swept(database_url) == 1  # waits for nobody
    await other.close()
    assert (await row_of(connection, retried))["status"] == "queued"


async def test_who_retries_a_job_that_is_purged_at_that_moment_learns_that_there_is_none(
    database_url: str, connection: Connection
) -> None:
    await keep(connection, "default", "1 hour")
    [job] = await finish_in_the_past(connection, ago=2 * AN_HOUR)
    other = await asyncpg.connect(database_url)
    async with connection.transaction():
        assert (await purge(connection, today()))["purged"] == 1
        retrying = asyncio.create_task(other.fetchval("select pushq.retry($1)", job))
        await eventually(partial(has_waiter, database_url))
    assert await retrying == "unknown"
    await other.close()


async def has_waiter(url: str) -> bool:
    watcher = await asyncpg.connect(url)
    waits = await watcher.fetchval("select exists (select from pg_locks where not granted)")
    await watcher.close()
    return bool(waits)


async def test_a_reader_keeps_what_it_sees_and_delays_nobody(database_url: str, connection: Connection) -> None:
    await keep(connection, "default", "1 hour")
    await finish_in_the_past(connection, 10, ago=2 * AN_HOUR)
    async with connection.transaction(isolation="repeatable_read"):
        assert await count(connection) == 10
        assert await swept(database_url) == 10
        assert await count(connection) == 10
    assert await count(connection) == 0


async def test_a_job_whose_row_somebody_has_locked_goes_later(database_url: str, connection: Connection) -> None:
    *_, yesterday = await past_days(connection)
    await keep(connection, "default", "1 hour")
    await finish_in_the_past(connection, 2, ago=A_DAY, day=yesterday)
    async with connection.transaction():
        await connection.execute("select from pushq.jobs limit 1 for update")
        assert await swept(database_url) == 1
    waits = "select next_at - now() from pushq.purges where day = $1"
    assert timedelta(0) < await connection.fetchval(waits, yesterday) <= AN_HOUR / 10
    await connection.execute("update pushq.purges set next_at = now()")
    assert await swept(database_url) == 1


async def test_who_waits_for_a_purged_job_is_told_that_there_is_none(database_url: str, connection: Connection) -> None:
    await keep(connection, "default", "0")
    [job] = await finish_in_the_past(connection, ago=AN_HOUR)
    await swept(database_url)
    with pytest.raises(JobUnknown, match="its queue keeps finished jobs no longer"):
        await Queue().wait(job, timeout=20, url=database_url)


async def test_a_window_of_a_key_outlives_its_job(database_url: str, connection: Connection) -> None:
    enqueue = "select id, inserted from pushq.enqueue('echo', unique_key => 'key', key_window => '1 hour')"
    first = await connection.fetchrow(enqueue)
    assert first
    job, is_new = first
    await connection.execute("select pushq.cancel($1)", job)
    await connection.execute("update pushq.jobs set finished_at = now() - interval '1 hour'")
    await keep(connection, "default", "0")
    assert await swept(database_url) == 1
    assert [is_new, *(await connection.fetchrow(enqueue) or ())] == [True, job, False]


# Days -----------------------------------------------------------------------------------------------------------------


async def past_days(connection: Connection) -> list[date]:
    """The days of the ten before today, made as they were then, without the youngest."""
    days = [today() - ago * A_DAY for ago in range(10, 0, -1)]
    for day in days:
        await make_day(connection, day)
    return days


async def left_days(connection: Connection) -> list[date]:
    rows = await connection.fetch(
        "select day from pushq.days where day < pushq.utc_today() and retired_at is null order by day"
    )
    return [row["day"] for row in rows]


async def test_a_keep_beyond_the_retention_holds_the_day_and_the_jobs_of_others_go(
    database_url: str, connection: Connection
) -> None:
    first, second, *others = await past_days(connection)
    await keep(connection, "mail", "9 days", "30 days")
    kept = await finish_in_the_past(connection, ago=9.5 * A_DAY, day=first, queue="mail", status="failed")
    await finish_in_the_past(connection, 2, ago=9.5 * A_DAY, day=first, queue="mail")
    await finish_in_the_past(connection, 4, ago=9.5 * A_DAY, day=first, status="failed")
    await finish_in_the_past(connection, 8, ago=8.5 * A_DAY, day=second)
    young = await finish_in_the_past(connection, ago=5 * A_DAY, day=others[3])
    async with sweeping(database_url) as sweeper:
        assert (await sweeper.sweep()).purged == 14
        assert await ids(connection) == {*kept, *young}

        await connection.execute("vacuum pushq.jobs")
        sweeper._days_are_due_at = 0
        await sweeper.sweep()
        assert await left_days(connection) == [first, *others[1:]]  # what is empty goes at the retention

    await keep(connection, "mail", None)
    async with sweeping(database_url) as sweeper:
        await sweeper.sweep()
    assert await left_days(connection) == others[1:]


async def test_a_day_is_dropped_when_the_longest_keep_is_over(database_url: str, connection: Connection) -> None:
    first, second, *_ = await past_days(connection)
    await keep(connection, "mail", "1 minute", "10 days")
    for day, ago in ((first, 9.5), (second, 8.5)):
        await finish_in_the_past(connection, ago=ago * A_DAY, day=day, queue="mail", status="failed")
    async with sweeping(database_url) as sweeper:
        assert {first.isoformat(), second.isoformat()}.isdisjoint((await sweeper.sweep()).retired)
    await keep(connection, "mail", "1 minute", "9 days")
    async with sweeping(database_url) as sweeper:
        swept_now = await sweeper.sweep()
    assert (swept_now.retired, swept_now.purged) == ((first.isoformat(),), 0)
    assert await count(connection) == 1


async def test_endless_and_huge_times_keep_for_ever_and_overflow_nothing(
    database_url: str, connection: Connection
) -> None:
    days = await past_days(connection)
    jobs = await finish_in_the_past(connection, ago=9 * A_DAY, day=days[0], queue="mail")
    huge = ["178000000 years", "100000 years"]
    if connection.get_server_version().major >= 17:
        huge.append("infinity")
    for time in huge:
        await keep(connection, "mail", time)
        assert await swept(database_url) == 0
        assert await ids(connection) == set(jobs)


async def test_instants_that_no_clock_shows_hinder_nobody(database_url: str, connection: Connection) -> None:
    await keep(connection, "default", "1 hour")
    for instant in ("-infinity", "infinity", "4713-01-01 BC", "294276-01-01"):
        await connection.execute(
            "insert into pushq.jobs (task, status, finished_at, finished_on) "
            f"values ('echo', 'succeeded', '{instant}', pushq.current_day())"
        )
    assert await swept(database_url) == 2
    assert await count(connection) == 2


# What is refused ------------------------------------------------------------------------------------------------------


async def test_a_time_below_zero_is_refused(connection: Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="0 or more, not -01:00:00; null is the default"):
        await keep(connection, "mail", "1 hour", "-1 hour")
    for column in ("keep", "keep_failed"):
        with pytest.raises(asyncpg.CheckViolationError, match=f"queues_{column}_is_not_negative"):
            await connection.execute(f"insert into pushq.queues (name, {column}) values ('mail', '-1 hour')")


@pytest.mark.parametrize("queue", [None, "", "q" * 201])
async def test_a_rule_without_a_queue_is_refused(connection: Connection, queue: str | None) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="name a queue by 1 to 200 characters"):
        await connection.execute("select pushq.keep($1, '1 hour')", queue)


async def test_the_function_says_what_it_did_and_leaves_the_rest_of_the_queue(connection: Connection) -> None:
    await connection.execute("select pushq.pause('mail')")
    said = [
        await connection.fetchval(f"select pushq.keep('mail'{times})")
        for times in ("", ", '1 hour'", ", '1 hour'", ", '1 hour', '2 hours'", ", keep_failed => '2 hours'", "")
    ]
    assert said == ["as before", "changed", "as before", "changed", "changed", "by default"]
    assert await connection.fetchval("select paused_at is not null from pushq.queues where name = 'mail'")


# Steps ----------------------------------------------------------------------------------------------------------------


async def next_block(connection: Connection) -> int:
    return int(await connection.fetchval("select next_block from pushq.purges where day = $1", today()))


async def test_a_step_looks_at_so_many_blocks_and_deletes_so_many_jobs_and_the_next_goes_on(
    connection: Connection,
) -> None:
    await keep(connection, "mail", "1 hour")
    for _ in range(10):
        await finish_in_the_past(connection, 100, ago=2 * AN_HOUR, queue="mail")
        await finish_in_the_past(connection, 100, ago=2 * AN_HOUR, queue="other")
    step = await purge(connection, today(), blocks=2)
    assert 0 < step["purged"] < 150
    assert (step["is_over"], await next_block(connection)) == (False, 2)
    purged = step["purged"]
    while not step["is_over"]:
        began_at = await next_block(connection)
        step = await purge(connection, today(), blocks=5, most=30)
        purged += step["purged"]
        assert step["purged"] <= 30
        assert step["is_over"] or began_at <= await next_block(connection) <= began_at + 5
    assert purged == 1000
    assert await count(connection) == 1000


async def test_what_ends_later_takes_the_place_of_what_was_purged(database_url: str, connection: Connection) -> None:
    await keep(connection, "default", "1 hour")
    size = "select pg_relation_size($1::text::regclass)"
    table = f"pushq.jobs_{today():%Y_%m_%d}"
    await finish_in_the_past(connection, 2000, ago=2 * AN_HOUR)
    before = await connection.fetchval(size, table)
    for _ in range(3):
        assert await swept(database_url) == 2000
        await connection.execute(f"vacuum {table}")
        await finish_in_the_past(connection, 2000, ago=2 * AN_HOUR)
        await connection.execute("update pushq.purges set next_at = now()")
    assert await connection.fetchval(size, table) <= before


async def test_while_a_sweeper_is_at_work_another_leaves_the_day_to_it(
    database_url: str, connection: Connection
) -> None:
    await keep(connection, "default", "1 hour")
    await finish_in_the_past(connection, 300, ago=2 * AN_HOUR)
    assert (await purge(connection, today(), blocks=1))["is_over"] is False
    async with connection.transaction():
        assert (await purge(connection, today(), blocks=1))["is_over"] is False
        assert await swept(database_url) == 0
    assert await swept(database_url) > 0
    assert await count(connection) == 0


async def test_many_sweepers_at_once_purge_each_job_once(database_url: str, connection: Connection) -> None:
    await keep(connection, "default", "1 hour")
    await finish_in_the_past(connection, 5000, ago=2 * AN_HOUR)
    purged = await asyncio.gather(*(swept(database_url) for _ in range(4)))
    assert sum(purged) == 5000
    assert await count(connection) == 0


async def test_without_a_rule_no_day_is_looked_at(database_url: str, connection: Connection) -> None:
    await finish_in_the_past(connection, 100, ago=A_DAY * 6)
    await connection.execute("select pushq.pause('*'); insert into pushq.queues (name) values ('mail')")
    assert await connection.fetch("select pushq.days_to_purge('7 days')") == []
    assert await swept(database_url) == 0
    assert await connection.fetchval("select count(*) from pushq.purges") == 0


async def test_a_day_that_is_over_and_has_no_job_with_a_rule_is_read_once(
    database_url: str, connection: Connection
) -> None:
    *_, over, _ = await past_days(connection)  # yesterday is not over until an hour after midnight
    await finish_in_the_past(connection, 100, ago=2 * A_DAY, day=over)
    await keep(connection, "mail", "1 hour")
    await swept(database_url)
    next_at = "select isfinite(next_at) from pushq.purges where day = $1"
    assert await connection.fetchval(next_at, over) is False
    assert await connection.fetch("select pushq.days_to_purge('7 days')") == []

    await keep(connection, "default", "1 hour")  # another rule, another pass
    assert await swept(database_url) == 100


async def test_rules_count_from_the_instant_and_the_retention_by_the_day_that_a_row_is_given(
    database_url: str, connection: Connection
) -> None:
    first, *_, yesterday = await past_days(connection)
    await keep(connection, "mail", "1 hour")
    young = await finish_in_the_past(connection, ago=AN_HOUR / 2, day=yesterday, queue="mail")
    await finish_in_the_past(connection, ago=2 * AN_HOUR, day=today(), queue="mail")
    await finish_in_the_past(connection, ago=AN_HOUR / 2, day=first)  # past the seven days
    assert await swept(database_url) == 1  # beside the one that goes with its day
    assert await ids(connection) == {*young}


async def test_a_row_that_comes_into_a_day_that_was_read_waits_for_the_next_change_of_a_rule(
    database_url: str, connection: Connection
) -> None:
    *_, yesterday = await past_days(connection)
    await keep(connection, "mail", "1 hour")
    await swept(database_url)
    await finish_in_the_past(connection, ago=A_DAY, day=yesterday, queue="mail")
    assert await swept(database_url) == 0
    await keep(connection, "news", "1 hour")
    assert await swept(database_url) == 1


async def test_jobs_that_are_left_are_looked_at_when_the_first_is_due(
    database_url: str, connection: Connection
) -> None:
    *_, yesterday = await past_days(connection)
    await keep(connection, "mail", "60 hours", "50 hours")
    await finish_in_the_past(connection, ago=40 * AN_HOUR, day=yesterday, queue="mail")
    await finish_in_the_past(connection, ago=39 * AN_HOUR, day=yesterday, queue="mail", status="failed")
    await swept(database_url)
    waits = await connection.fetchval("select next_at - now() from pushq.purges where day = $1", yesterday)
    assert 10.9 * AN_HOUR < waits <= 11 * AN_HOUR


async def test_a_clock_that_is_set_back_stops_no_purge(database_url: str, connection: Connection) -> None:
    await keep(connection, "default", "1 hour")
    await finish_in_the_past(connection, ago=2 * AN_HOUR)
    await connection.execute(
        "insert into pushq.purges (day, rules, began_at, next_at) "
        "select pushq.utc_today(), rules, now() + interval '1 year', 'infinity' from pushq.keep_rules()"
    )
    assert await swept(database_url) == 1


async def test_notes_of_days_that_are_gone_are_gone(database_url: str, connection: Connection) -> None:
    await connection.execute("insert into pushq.purges (day, rules) values ('2020-01-01', '')")
    await keep(connection, "default", "1 hour")
    await swept(database_url)
    assert await connection.fetchval("select count(*) from pushq.purges where day = '2020-01-01'") == 0
