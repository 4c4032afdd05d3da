"""Jobs that share things, in the corners: cancels, guests, suspects, drains, changes of rules, long lines."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq.pool.store import Claimant, Terms
from tests.promises.test_lanes import most_at_once
from tests.support.claiming import Claiming
from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.store import Store
from tests.support.supervisors import supervising
from tests.support.waiting import eventually


async def set_capacity(connection: Connection, name: str, capacity: int) -> None:
    await connection.execute(
        "insert into pushq.resources (name, capacity) values ($1, $2) on conflict (name) do update set capacity = $2",
        name,
        capacity,
    )


async def set_turn(connection: Connection, turn: float) -> None:
    """Of the default queue, in seconds."""
    await connection.execute(
        "insert into pushq.queues (name, turn) values ('default', $1) on conflict (name) do update set turn = $1",
        timedelta(seconds=turn),
    )


async def taken_by_guest(connection: Connection, job: UUID) -> UUID:
    token = await connection.fetchval("select pushq.take($1, 'bert', '1 hour')", job)
    assert isinstance(token, UUID)
    return token


async def guest_holds(connection: Connection, **needs: int) -> tuple[UUID, UUID]:
    """A job that a guest runs, and its token."""
    [job] = await insert(connection, "guest.only", needs=needs)
    return job, await taken_by_guest(connection, job)


async def begun(connection: Connection, *jobs: UUID, within: float = 10) -> None:
    await eventually(
        lambda: connection.fetchval(
            "select count(*) = $2 from pushq.jobs where id = any($1) and status <> 'queued'", list(jobs), len(jobs)
        ),
        within=within,
    )


async def looked_in_vain(connection: Connection, *jobs: UUID) -> None:
    """Pools have had the time to look at the jobs, and have left them."""
    await asyncio.sleep(0.5)
    assert await connection.fetchval(
        "select count(*) = $2 from pushq.jobs where id = any($1) and status = 'queued'", list(jobs), len(jobs)
    )


# Nothing waits while a pool sleeps ----------------------------------------------------------------------------


async def test_the_units_of_one_large_job_are_taken_by_several_pools(database_url: str, connection: Connection) -> None:
    await set_capacity(connection, "gpu", 3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(supervising(database_url, "--concurrency", "1", POLL_INTERVAL="0"))
        [large] = await insert(connection, "sleep", needs={"gpu": 3}, payload={"seconds": 1})
        await begun(connection, large)
        small = await insert(connection, "sleep", 3, needs={"gpu": 1}, payload={"seconds": 8})
        await finished(connection, large)
        await begun(connection, *small, within=4)


async def test_units_that_a_transaction_gives_back_are_taken_by_a_job_inserted_before_its_commit(
    database_url: str, connection: Connection
) -> None:
    other = await asyncpg.connect(database_url)
    job, token = await guest_holds(connection, gpu=1)
    with supervising(database_url, POLL_INTERVAL="0"):
        await looked_in_vain(connection)  # and sleep: a pool that is about to would wait for the transaction
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select pushq.finish($1, $2, 'succeeded')", job, token)
        waiting = await insert(connection, "echo", needs=["gpu"])
        await looked_in_vain(connection, *waiting)
        await transaction.commit()
        await finished(connection, *waiting, within=3)
    await other.close()


@pytest.mark.parametrize(
    "call",
    [
        "select pushq.cancel($1)",
        "select pushq.reschedule($1, now() + interval '1 hour')",
        "select pushq.reprioritize($1, 100)",
        "select pushq.pause(queue) from pushq.jobs where id = $1",
    ],
    ids=lambda call: call.split(".")[1].split("(")[0],
)
async def test_what_a_job_in_line_had_reserved_is_taken_when_the_job_leaves_its_place(
    database_url: str, connection: Connection, call: str
) -> None:
    await set_capacity(connection, "gpu", 2)
    await guest_holds(connection, gpu=1)
    with supervising(database_url, "--queue", "default", "--queue", "bulk", POLL_INTERVAL="0"):
        [large] = await insert(
            connection, "echo", queue="bulk", needs={"gpu": 2}, run_at=datetime.now(UTC) - timedelta(seconds=5)
        )
        small = await insert(connection, "echo", needs=["gpu"])
        await looked_in_vain(connection, large, *small)
        await connection.execute(call, large)
        await finished(connection, *small, within=3)


async def test_a_look_at_new_jobs_is_also_at_all_that_wait_for_units(database_url: str, connection: Connection) -> None:
    """Where dead rows make looks slow, claims leave out the past. Jobs with needs may have been left there."""
    long_ago = datetime.now(UTC) - timedelta(seconds=30)
    await set_capacity(connection, "gpu", 2)
    await guest_holds(connection, gpu=1)
    await insert(connection, "echo", needs={"gpu": 2}, run_at=long_ago)
    await insert(connection, "echo", needs=["gpu"])
    [fits] = await insert(connection, "echo", needs=["cpu"], run_at=long_ago)
    async with Claiming.at(database_url, connection) as pool:
        claimant = Claimant("anna", 1, ("default",), ("echo",))
        jobs = await Store(pool.session).claim(claimant, uuid4(), 10, 1.0, None, Terms(10))
        assert [job.id for job in jobs] == [fits]


async def test_a_token_that_comes_while_a_pool_asks_for_it_is_not_slept_over(connection: Connection) -> None:
    await connection.execute("insert into pushq.resources (name, capacity, rate) values ('api', null, 5)")
    first, _ = await insert(connection, "echo", 2, needs=["api"])
    await connection.execute(
        """
        do $$ begin
            execute replace(
                pg_get_functiondef('pushq.choose_fitting'::regproc), 'choose_fitting', 'choose_at_once');
        end $$;
        create or replace function pushq.choose_fitting(ids uuid[], most int, most_holding int) returns uuid[]
        language plpgsql as $$
        declare chosen uuid[] := pushq.choose_at_once(ids, most, most_holding);
        begin perform pg_sleep(0.3); return chosen; end $$;
        """
    )
    await taken_by_guest(connection, first)
    await connection.execute("update pushq.tokens set whole_at = clock_timestamp() + interval '0.1 s'")
    assert await connection.fetchval("select pushq.next_due_in_lanes('{default}', '{echo}')") is not None


async def test_of_five_thousand_lanes_the_one_that_is_free_is_found(database_url: str, connection: Connection) -> None:
    await set_capacity(connection, "closed", 0)
    await connection.execute(
        "insert into pushq.jobs (task, needs) "
        "select 'echo', jsonb_build_object('closed', 1, 'own ' || number, 1) from generate_series(1, 5000) as number"
    )
    await connection.execute("analyze pushq.jobs_unfinished")
    with supervising(database_url, POLL_INTERVAL="0"):
        await finished(connection, *await insert(connection, "echo", needs=["open"]))


async def test_many_jobs_that_lack_some_of_their_units_do_not_hold_up_one_behind_them(
    database_url: str, connection: Connection
) -> None:
    await set_capacity(connection, "gpu", 2)
    await guest_holds(connection, gpu=1)
    large = await insert(connection, "echo", 500, needs={"gpu": 2})
    with supervising(database_url, "--concurrency", "10", POLL_INTERVAL="0"):
        await finished(connection, *await insert(connection, "echo", needs=["cpu"]), within=5)
        await looked_in_vain(connection, *large)


# Who holds units, and for how long ----------------------------------------------------------------------------


async def test_a_job_that_is_cancelled_holds_its_units_until_its_handler_has_stopped(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        [job] = await insert(connection, "sleep.thread", needs=["gpu"], payload={"seconds": 2})
        await begun(connection, job)
        await connection.execute("select pushq.cancel($1)", job)
        assert await connection.fetchval("select units from pushq.held() where name = 'gpu'") == 1
        following = await insert(connection, "echo", needs=["gpu"])
        cancelled, after = await finished(connection, job, *following)

    assert (cancelled["status"], after["status"]) == ("cancelled", "succeeded")
    assert after["started_at"] >= cancelled["finished_at"] >= cancelled["started_at"] + timedelta(seconds=1.9)


async def test_few_jobs_that_only_wait_for_a_worker_hold_units(database_url: str, connection: Connection) -> None:
    """Of four workers. Half as many may wait, and some outcomes may be on the way to the database."""
    await set_capacity(connection, "api", 1000)
    await insert(connection, "sleep", 80, needs=["api"], payload={"seconds": 0.05})
    await insert(connection, "sleep", 600, payload={"seconds": 0.005})
    most = 0
    with supervising(database_url, "--concurrency", "4", POLL_INTERVAL="0"):

        async def are_all_finished() -> bool:
            nonlocal most
            most = max(most, await connection.fetchval("select coalesce(sum(units), 0) from pushq.held()"))
            return await count(connection, "finished_on = 'infinity'") == 0

        await eventually(are_all_finished, within=40)
    assert 0 < most <= 8


async def test_jobs_of_a_claim_whose_reply_was_lost_come_back_with_their_lane(
    database_url: str, connection: Connection
) -> None:
    """Else the pool would not know that they give units back."""
    await insert(connection, "echo", needs=["gpu"])
    async with Claiming.at(database_url, connection) as pool:
        store, token = Store(pool.session), uuid4()
        claimed = await store.claim(Claimant("anna", 1, ("default",), ("echo",)), token, 10, None, None, Terms(10))
        assert [job.lane for job in claimed] == [job.lane for job in await store.take_back("anna", token)]
        assert claimed[0].lane


async def test_a_suspect_waits_for_its_units_and_gives_them_back(database_url: str, connection: Connection) -> None:
    job, token = await guest_holds(connection, gpu=1)
    [suspect] = await insert(connection, "echo", needs=["gpu"], crashes=2)
    with supervising(database_url, POLL_INTERVAL="0"):
        await looked_in_vain(connection, suspect)
        await connection.execute("select pushq.finish($1, $2, 'succeeded')", job, token)
        await finished(connection, suspect)
        await finished(connection, *await insert(connection, "echo", needs=["gpu"]), within=3)


async def test_a_detached_job_holds_its_units_until_somebody_ends_it(database_url: str, connection: Connection) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        [job] = await insert(connection, "detach", needs=["gpu"], payload={"seconds": 60})
        await has_count(connection, 1, "supervisor like 'guest:%'")
        following = await insert(connection, "echo", needs=["gpu"])
        await looked_in_vain(connection, *following)
        await connection.execute("select pushq.finish(id, token, 'succeeded') from pushq.jobs where id = $1", job)
        await finished(connection, *following, within=3)


async def test_a_guest_takes_the_next_job_that_fits(connection: Connection) -> None:
    first, second = await insert(connection, "echo", 2, needs=["gpu"])
    [other] = await insert(connection, "echo", needs=["cpu"])
    taken = [
        await connection.fetchrow("select * from pushq.take_next('default', 'bert', '1 minute')") for _ in range(3)
    ]

    assert [row and row["id"] for row in taken] == [first, other, None]
    await connection.execute("select pushq.finish(id, token, 'succeeded') from pushq.jobs where id = $1", first)
    assert await connection.fetchval("select pushq.take($1, 'bert', '1 minute')", second)


async def test_a_job_that_fails_gives_its_units_back_until_it_is_retried(
    database_url: str, connection: Connection
) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(supervising(database_url, "--concurrency", "1", POLL_INTERVAL="0"))
        jobs = await insert(connection, "fail", 4, needs=["gpu"])
        jobs += await insert(connection, "snooze", 2, needs=["gpu"], payload={"times": 2})
        rows = await finished(connection, *jobs)

    assert [row["status"] for row in rows] == ["failed"] * 4 + ["succeeded"] * 2
    assert await connection.fetchval("select count(*) from pushq.held()") == 0
    assert await connection.fetchval("select pushq.retry($1)", jobs[0]) == "queued"
    assert await connection.fetchval("select apart from pushq.jobs_unfinished where id = $1", jobs[0]) == "lane"


async def test_a_drain_gives_the_units_of_jobs_that_it_stops_back_at_once(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0", SHUTDOWN_TIMEOUT="1") as drained:
        [job] = await insert(connection, "sleep", needs=["gpu"], payload={"seconds": 30})
        await begun(connection, job)
        with supervising(database_url, "--concurrency", "1", POLL_INTERVAL="0"):
            following = await insert(connection, "echo", needs=["gpu"], priority=-1)
            await looked_in_vain(connection, *following)
            assert drained.stop() == 0
            await finished(connection, *following, within=3)


# Lines --------------------------------------------------------------------------------------------------------


async def test_a_job_that_nobody_knows_at_the_head_of_a_lane_is_passed_over(
    database_url: str, connection: Connection
) -> None:
    unknown = await insert(connection, "nobody.knows", 3, needs=["gpu"], priority=-1)
    with supervising(database_url, POLL_INTERVAL="0"):
        await finished(connection, *await insert(connection, "echo", 5, needs=["gpu"]))
    assert await count(connection, "status = 'queued'") == len(unknown)


async def test_a_job_for_later_at_the_head_of_a_lane_holds_up_nobody_and_starts_at_its_time(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        soon = datetime.now(UTC) + timedelta(seconds=3)
        later = await insert(connection, "echo", needs=["gpu"], priority=-9, run_at=soon)
        await finished(connection, *await insert(connection, "echo", 3, needs=["gpu"]), within=3)
        [row] = await finished(connection, *later, within=6)
    assert 0 <= (row["started_at"] - soon).total_seconds() < 1


async def test_the_most_urgent_begins_first_within_a_lane_and_across_lanes(
    database_url: str, connection: Connection
) -> None:
    await set_turn(connection, 0)
    job, token = await guest_holds(connection, gpu=1)
    urgency = [5, -5, 0, 2, -2, 7, -7, 0]
    jobs = [
        (await insert(connection, "echo", priority=priority, needs={"gpu": 1, f"model:{number % 3}": 1}))[0]
        for number, priority in enumerate(urgency)
    ]
    with supervising(database_url, "--concurrency", "3", POLL_INTERVAL="0"):
        await looked_in_vain(connection, *jobs)
        await connection.execute("select pushq.finish($1, $2, 'succeeded')", job, token)
        rows = await finished(connection, *jobs)
    assert [row["priority"] for row in sorted(rows, key=lambda row: row["started_at"])] == sorted(urgency)


async def test_jobs_with_several_names_get_all_of_them_or_none_and_nobody_waits_for_ever(
    database_url: str, connection: Connection
) -> None:
    chance = random.Random(20)
    capacities = {"a": 1, "b": 2, "c": 3, "d": 1}
    for name, capacity in capacities.items():
        await set_capacity(connection, name, capacity)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(supervising(database_url, "--concurrency", "8", POLL_INTERVAL="0"))
        jobs = []
        for _ in range(150):
            names = chance.sample(sorted(capacities), chance.randint(1, 3))
            needs = {name: chance.randint(1, capacities[name]) for name in names}
            jobs += await insert(connection, "sleep", needs=needs, payload={"seconds": 0.01})
        rows = await finished(connection, *jobs, within=40)

    assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 1)}
    most = await most_at_once(connection)
    assert all(most[name] <= capacity for name, capacity in capacities.items())


async def test_two_pools_of_one_supervisor_share_what_there_is(database_url: str, connection: Connection) -> None:
    with supervising(database_url, "--processes", "2", POLL_INTERVAL="0"):
        jobs = [
            (await insert(connection, "sleep", needs=[f"model:{number % 3}"], payload={"seconds": 0.01}))[0]
            for number in range(60)
        ]
        await finished(connection, *jobs)
    assert await most_at_once(connection) == {"model:0": 1, "model:1": 1, "model:2": 1}


# Changes of rules ---------------------------------------------------------------------------------------------


async def test_a_capacity_that_is_lowered_under_what_runs_holds_for_those_that_come_after(
    database_url: str, connection: Connection
) -> None:
    """Their turns are over: a lane whose turn is not may go on in the places that it has."""
    await set_capacity(connection, "gpu", 3)
    with supervising(database_url, POLL_INTERVAL="0"):
        first = await insert(connection, "sleep", 3, needs=["gpu"], payload={"seconds": 1.5})
        await begun(connection, *first)
        await set_capacity(connection, "gpu", 1)
        later = await insert(connection, "sleep", 4, needs=["gpu"], payload={"seconds": 0.05}, correlation_id="later")
        rows = await finished(connection, *later)
    rows.sort(key=lambda row: row["started_at"])
    assert all(one["finished_at"] <= next_one["started_at"] for one, next_one in pairwise(rows))


async def test_a_resource_that_is_deleted_while_it_is_held_has_the_usual_capacity(
    database_url: str, connection: Connection
) -> None:
    await set_capacity(connection, "gpu", 2)
    with supervising(database_url, POLL_INTERVAL="0"):
        first = await insert(connection, "sleep", 2, needs=["gpu"], payload={"seconds": 1.5})
        await begun(connection, *first)
        await connection.execute("delete from pushq.resources where name = 'gpu'")
        later = await insert(connection, "sleep", 4, needs=["gpu"], payload={"seconds": 0.05})
        rows = await finished(connection, *first, *later)
    assert {row["status"] for row in rows} == {"succeeded"}
    rows = sorted(rows[2:], key=lambda row: row["started_at"])
    assert all(one["finished_at"] <= next_one["started_at"] for one, next_one in pairwise(rows))


async def test_a_lane_of_a_paused_queue_goes_on_no_further(database_url: str, connection: Connection) -> None:
    await set_turn(connection, 60)
    with supervising(database_url, POLL_INTERVAL="0"):
        jobs = await insert(connection, "sleep", 60, needs=["gpu"], payload={"seconds": 0.05})
        await begun(connection, *jobs[:3])
        await connection.execute("select pushq.pause('default')")
        await has_count(connection, 0, "status = 'running'")
        left = await count(connection, "status = 'queued'")
        await looked_in_vain(connection)
        assert await count(connection, "status = 'queued'") == left > 30
        await connection.execute("select pushq.resume('default')")
        await finished(connection, *jobs)
