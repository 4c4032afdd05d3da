"""Jobs that share things: needs, lanes, limits, rates."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import asyncpg
import pytest

from tests.support.jobs import Connection, finished, has_count, insert, row_of
from tests.support.planting import spoiled
from tests.support.pools import asleep
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

Row = Any


async def most_at_once(connection: Connection) -> dict[str, int]:
    """How many units of each name were held at once, at most, by what the rows of finished jobs say of their runs."""
    rows = await connection.fetch(
        """
        with run as (
            select need.key as name, need.value::int as units, job.started_at as at, job.finished_at as until
            from pushq.jobs as job cross join lateral jsonb_each(job.needs) as need
            where job.finished_on < 'infinity'
        ),
        change as (
            select name, at, units from run union all select name, until, -units from run
        )
        select name, max(held)::int as held
        from (select name, sum(units) over (partition by name order by at, units) as held from change) as held
        group by name
        """
    )
    return {row["name"]: row["held"] for row in rows}


async def test_jobs_that_need_the_same_run_one_after_the_other_whichever_supervisor_takes_them(
    database_url: str, connection: Connection
) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(supervising(database_url, POLL_INTERVAL="0"))
        jobs = [
            (await insert(connection, "sleep", needs=[f"model:{number % 3}"], payload={"seconds": 0.02}))[0]
            for number in range(60)
        ]
        rows = await finished(connection, *jobs)

    assert {row["status"] for row in rows} == {"succeeded"}
    assert await most_at_once(connection) == {"model:0": 1, "model:1": 1, "model:2": 1}


async def test_a_job_waits_for_all_of_its_units_and_a_stream_of_smaller_ones_does_not_starve_it(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 4)")
    await connection.execute("insert into pushq.queues (name, turn) values ('default', '0')")
    with supervising(database_url, POLL_INTERVAL="0"):
        small = await insert(connection, "sleep", 8, needs=["gpu"], payload={"seconds": 0.1})
        [large] = await insert(connection, "sleep", needs={"gpu": 4}, payload={"seconds": 0.1})
        small += await insert(connection, "sleep", 100, needs=["gpu"], payload={"seconds": 0.1})
        rows = await finished(connection, large, *small)

    later = [row for row in rows if row["started_at"] > rows[0]["started_at"]]
    assert len(later) > 40
    assert (await most_at_once(connection))["gpu"] == 4


async def test_a_rate_is_kept_by_several_supervisors_without_any_polling(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("insert into pushq.resources (name, capacity, rate, burst) values ('api', null, 20, 5)")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(supervising(database_url, POLL_INTERVAL="0"))
        rows = await finished(connection, *await insert(connection, "echo", 40, needs=["api"]))

    starts = sorted(row["started_at"] for row in rows)
    for first, start in enumerate(starts):
        for number, later in enumerate(starts[first:], 1):
            assert number <= 5 + 20 * ((later - start).total_seconds() + 0.02) + 1
    assert (starts[-1] - starts[0]).total_seconds() < 35 / 20 + 1


async def test_a_capacity_that_is_raised_lets_those_that_wait_begin_at_once(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 0)")
    with supervising(database_url, POLL_INTERVAL="0"):
        jobs = await insert(connection, "echo", 3, needs=["gpu"])
        await asyncio.sleep(0.5)
        assert await connection.fetchval("select count(*) from pushq.jobs where status = 'queued'") == 3
        await connection.execute("update pushq.resources set capacity = 3 where name = 'gpu'")
        await finished(connection, *jobs, within=2)


@pytest.mark.parametrize(
    "act",
    [
        "select pushq.cancel($1)",
        "select pushq.reschedule($1, now() + interval '1 hour')",
        "select pushq.reprioritize($1, 1)",
    ],
)
async def test_what_a_waiting_job_has_reserved_is_free_for_others_once_it_is_cancelled_or_put_off(
    database_url: str, connection: Connection, act: str
) -> None:
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 2)")
    with supervising(database_url, POLL_INTERVAL="0"):
        [holder] = await insert(connection, "sleep", needs=["gpu"], payload={"seconds": 30})
        await has_count(connection, 1, "status = 'running'")
        [large] = await insert(connection, "echo", needs={"gpu": 2})
        await asyncio.sleep(1.2)
        [small] = await insert(connection, "echo", needs=["gpu"])
        await asyncio.sleep(0.5)
        assert (await row_of(connection, small))["status"] == "queued"
        await connection.execute(act, large)
        await finished(connection, small, within=3)
        await connection.execute("select pushq.cancel($1)", holder)


async def test_a_claim_of_new_jobs_alone_minds_a_job_that_has_waited_for_units(connection: Connection) -> None:
    """While claims are slow, a pool looks for what has fallen due since the last look, since it has taken the rest."""
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 2)")
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until)"
        " values ('s', 'here', 1, '1 minute', now() + interval '1 minute')"
    )
    [holder] = await insert(connection, "echo", needs=["gpu"])
    [large] = await insert(connection, "echo", needs={"gpu": 2})
    [small] = await insert(connection, "echo", needs=["gpu"])
    await connection.execute("update pushq.jobs_unfinished set run_at = now() - interval '9 s' where id = $1", large)
    await connection.execute(
        "update pushq.jobs_unfinished set"
        " status = 'running', supervisor = 's', pool = 1, token = gen_random_uuid(), attempt = 1, started_at = now()"
        " where id = $1",
        holder,
    )
    claim = (
        "select pushq.lock_claimable("
        " '{default}', '{echo}', 's', 5, now() - interval '3 s', clock_timestamp(), 5, true, '{}', null, null)"
    )

    assert await connection.fetchval(claim) == []  # the units that are free are reserved
    await connection.execute("select pushq.cancel($1)", small)
    await connection.execute("delete from pushq.jobs where id = $1", holder)
    assert await connection.fetchval(claim) == [large]


async def test_no_job_begins_once_its_resource_is_closed_and_those_that_run_go_on(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("select pushq.limit('gpu', 2), pushq.set_turn('default', '60 s')")
    with supervising(database_url, POLL_INTERVAL="0"):
        await insert(connection, "sleep", 200, needs=["gpu"], payload={"seconds": 0.05})
        await eventually(lambda: connection.fetchval("select count(*) > 4 from pushq.jobs where status = 'succeeded'"))
        await connection.execute("select pushq.limit('gpu', 0)")
        closed_at = await connection.fetchval("select clock_timestamp()")
        await eventually(lambda: connection.fetchval("select count(*) = 0 from pushq.jobs where status = 'running'"))

    later = "select count(*) from pushq.jobs where started_at > $1::timestamptz + interval '100 ms'"
    assert await connection.fetchval(later, closed_at) == 0
    assert await connection.fetchval("select count(*) from pushq.jobs where status = 'queued'") > 100
    assert await connection.fetchval("select count(*) from pushq.jobs where attempt > 1") == 0


async def test_a_queue_runs_no_more_jobs_at_once_than_its_capacity(database_url: str, connection: Connection) -> None:
    await connection.execute(
        "insert into pushq.queues (name, capacity) values ('default', 2) on conflict (name) do update set capacity = 2"
    )
    with supervising(database_url, POLL_INTERVAL="0"):
        await finished(connection, *await insert(connection, "sleep", 30, payload={"seconds": 0.02}))

    assert await most_at_once(connection) == {"queue:default": 2}


async def test_units_of_a_pool_that_died_are_free_for_others(database_url: str, connection: Connection) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        jobs = await insert(connection, "die.once", needs=["gpu"]) + await insert(connection, "echo", needs=["gpu"])
        rows = await finished(connection, *jobs)

    assert {row["status"] for row in rows} == {"succeeded"}
    await eventually(lambda: connection.fetchval("select count(*) = 0 from pushq.held()"))


async def test_plain_jobs_and_jobs_with_needs_do_not_hold_one_another_up(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        plain = await insert(connection, "sleep", 600, payload={"seconds": 0.05})
        needing = await insert(connection, "sleep", 20, needs=["gpu"], payload={"seconds": 0.05})
        rows = await finished(connection, *needing, *plain)

    assert max(row["finished_at"] for row in rows[:20]) < max(row["finished_at"] for row in rows[20:])
    assert min(row["finished_at"] for row in rows[20:]) < max(row["finished_at"] for row in rows[:20])


async def test_under_a_strict_key_a_job_that_is_tried_again_keeps_its_place(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("insert into pushq.resources (name, capacity, strict) values ('key:*', 1, true)")
    with supervising(database_url, POLL_INTERVAL="0"):
        jobs = [
            (await insert(connection, task, limit_key=key, payload=payload))[0]
            for task, payload in (("fail.until", {"attempt": 3}), ("echo", {}), ("echo", {}))
            for key in ("a", "b")
        ]
        rows = await finished(connection, *jobs)
    assert {row["status"] for row in rows} == {"succeeded"}
    for key in ("a", "b"):
        ends = sorted((row["finished_at"], row["enqueued_at"]) for row in rows if row["limit_key"] == key)
        assert ends == sorted(ends, key=lambda end: end[1])


async def test_under_a_strict_key_the_next_begins_when_the_one_that_waits_to_be_tried_again_is_cancelled(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("insert into pushq.resources (name, capacity, strict) values ('key:a', 1, true)")
    [first, second] = await insert(connection, "echo", 2, limit_key="a")
    await connection.execute(
        "update pushq.jobs_unfinished set attempt = 1, failures = 1, run_at = now() + interval '1 hour' where id = $1",
        first,
    )
    with supervising(database_url, POLL_INTERVAL="0"):
        await asleep(connection)
        assert await connection.fetchval("select status from pushq.jobs where id = $1", second) == "queued"
        await connection.execute("select pushq.cancel($1)", first)
        [row] = await finished(connection, second)
    assert row["status"] == "succeeded"


async def test_a_job_that_a_limit_has_met_while_it_ran_lets_the_next_begin_when_it_ends(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        [first] = await insert(connection, "sleep", payload={"seconds": 2})
        await has_count(connection, 1, "status = 'running'")
        await connection.execute("select pushq.limit('queue:default', 1)")
        await connection.execute("select pushq.stamp()")
        [second] = await insert(connection, "echo")
        rows = await finished(connection, first, second, within=8)
    assert rows[1]["started_at"] >= rows[0]["finished_at"]


async def test_a_capacity_that_is_lowered_holds_for_all_jobs_that_begin_from_then_on(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("select pushq.limit('gpu', 4), pushq.set_turn('default', '1 hour')")
    jobs = await insert(connection, "sleep", 20, needs=["gpu"], payload={"seconds": 0.1})
    with supervising(database_url, POLL_INTERVAL="0"):
        await finished(connection, *jobs[:4])
        await connection.execute("select pushq.limit('gpu', 1)")
        lowered_at = await connection.fetchval("select clock_timestamp() + interval '50 ms'")
        rows = await finished(connection, *jobs)
    late = [row for row in rows if row["started_at"] > lowered_at]
    assert late
    for row in late:
        assert not [one for one in rows if one["started_at"] < row["started_at"] < one["finished_at"]]


async def test_after_its_turn_a_lane_gives_way_to_a_more_urgent_job_without_needs(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0", CONCURRENCY="1"):
        many = await insert(connection, "sleep", 100, needs=["gpu"], payload={"seconds": 0.03})
        await finished(connection, many[2])
        [urgent] = await insert(connection, "echo", priority=-10)
        [row] = await finished(connection, urgent)
        assert (row["started_at"] - row["enqueued_at"]).total_seconds() < 0.5


async def test_a_job_that_can_never_fit_keeps_nothing_from_others(database_url: str, connection: Connection) -> None:
    await connection.execute("select pushq.limit('gpu', 3), pushq.limit('api', rate => 50, burst => 5)")
    large = [
        *await insert(connection, "echo", needs={"gpu": 3}),
        *await insert(connection, "echo", needs={"api": 5, "gpu": 1}),
    ]
    await connection.execute("update pushq.jobs set run_at = run_at - interval '1 minute'")
    await connection.execute("select pushq.limit('gpu', 2), pushq.limit('api', rate => 50, burst => 2)")
    small = await insert(connection, "echo", 4, needs=["gpu"])
    with supervising(database_url, POLL_INTERVAL="0"):
        await finished(connection, *small)
        assert {(await row_of(connection, job))["status"] for job in large} == {"queued"}
        await connection.execute("select pushq.limit('gpu', 3), pushq.limit('api', rate => 50, burst => 5)")
        await finished(connection, *large)


async def test_a_rate_that_is_raised_holds_at_once(database_url: str, connection: Connection) -> None:
    await connection.execute("select pushq.limit('api', rate => 0.001)")
    with supervising(database_url, POLL_INTERVAL="0"):
        jobs = await insert(connection, "echo", 5, needs=["api"])
        await has_count(connection, 1, "status = 'succeeded'")
        await connection.execute("select pushq.limit('api', rate => 100)")
        await finished(connection, *jobs)


async def test_no_token_gets_lost_by_many_starts(connection: Connection) -> None:
    await connection.execute("select pushq.limit('api', rate => 10, burst => 600)")
    jobs = await insert(connection, "echo", 200, needs=["api"])
    began = await connection.fetchval("select clock_timestamp()")
    for job in jobs:
        assert await connection.fetchval("select pushq.take($1, 'bert')", job)
    whole_at = await connection.fetchval("select whole_at from pushq.tokens")
    assert (whole_at - began).total_seconds() >= 20


@pytest.mark.parametrize("change", ["limit_key = null", "needs = null", "needs = '{\"gpu\": 1}'"])
async def test_what_a_job_needs_no_more_is_free_for_others_at_once(
    database_url: str, connection: Connection, change: str
) -> None:
    await connection.execute("select pushq.limit('gpu', 2)")
    [held] = await insert(connection, "echo", needs={"gpu": 2}, limit_key="a")
    assert await connection.fetchval("select pushq.take($1, 'bert')", held)
    with supervising(database_url, POLL_INTERVAL="0"):
        [waits] = await insert(connection, "echo", **({"limit_key": "a"} if "key" in change else {"needs": ["gpu"]}))
        await asleep(connection)
        await connection.execute(f"update pushq.jobs set {change} where id = $1", held)
        await finished(connection, waits)


async def test_a_guest_without_tasks_takes_jobs_of_a_fair_queue_too(connection: Connection) -> None:
    await connection.execute("select pushq.be_fair('default', 'tenant')")
    [job] = await insert(connection, "echo", tenant_id="acme")
    assert await connection.fetchval("select id from pushq.take_next('default', 'bert')") == job


async def test_a_job_that_falls_due_while_a_pool_asks_what_is_next_is_told(
    database_url: str, connection: Connection
) -> None:
    """Else the pool would sleep on."""
    due_at = await connection.fetchval("select clock_timestamp() + interval '0.5 seconds'")
    await insert(connection, "echo", needs={"thing": 1}, run_at=due_at)
    asker = await asyncpg.connect(database_url)
    place = "    return least("

    async def waits() -> bool:
        event = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
        return bool(await connection.fetchval(event, asker.get_server_pid()))

    async with spoiled(connection, "pushq.next_due_in_lanes", place, f"perform pg_advisory_xact_lock(4711); {place}"):
        await connection.execute("select pg_advisory_lock(4711)")
        asked = asyncio.create_task(asker.fetchval("select pushq.next_due_in_lanes('{default}', '{echo}')"))
        await eventually(waits)
        await eventually(lambda: connection.fetchval("select clock_timestamp() > $1", due_at))
        await connection.execute("select pg_advisory_unlock(4711)")

        assert await asked == due_at
    await asker.close()
