"""An administrator's locks and DDL on pushq's tables, while jobs run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg

from pushq.pool.intake import FURTHEST_AHEAD
from pushq.pool.outbox import LARGEST_BATCH, MOST_UNWRITTEN
from tests.support.jobs import Connection, count, finished, has_count, insert, row_of
from tests.support.pools import asleep
from tests.support.supervisors import QUICK, RunningSupervisor, supervising
from tests.support.waiting import eventually

LEASE = float(QUICK["LEASE"])
OURS = "from pg_stat_activity where datname = current_database() and application_name like 'pushq %'"


async def test_a_lock_held_for_two_leases_costs_no_job_an_attempt(database_url: str, connection: Connection) -> None:
    administrator = await asyncpg.connect(database_url)
    with supervising(database_url) as one, supervising(database_url) as other:
        pools = one.pools + other.pools
        napping = await insert(connection, "sleep", 10, payload={"seconds": 1})
        await has_count(connection, 10, "status = 'running'")
        async with administrator.transaction():
            await administrator.execute("lock table pushq.jobs in access exclusive mode")
            waiting = asyncio.create_task(insert(connection, "echo", 20))
            await asyncio.sleep(2 * LEASE)
            # Nobody tries again and again with connections of its own.
            assert await administrator.fetchval(f"select count(*) {OURS}") <= 12
        rows = await finished(connection, *napping, *await waiting)

        assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
        assert one.pools + other.pools == pools
    await administrator.close()


async def test_nothing_else_that_waits_for_the_database_holds_up_a_sign_of_life(
    database_url: str, connection: Connection
) -> None:
    """Neither a scrape, nor jobs that are to be taken from a pool that has died, nor the sweeper."""
    administrator = await asyncpg.connect(database_url)
    signs = "select heartbeat from pushq.supervisors"
    with supervising(database_url) as supervisor:
        jobs = await insert(connection, "sleep", 2, payload={"seconds": 60})
        await has_count(connection, 2, "status = 'running'")
        async with administrator.transaction():
            await administrator.execute("lock table pushq.tallies, pushq.tally_log in access exclusive mode")
            os.kill(supervisor.pools[0], signal.SIGKILL)
            scrape = asyncio.create_task(asyncio.to_thread(supervisor.get, "/metrics"))
            await eventually(lambda: _is_held_up(connection, "scrapes"))
            await eventually(lambda: _is_held_up(connection, "jobs"))
            before = await administrator.fetchval(signs)
            await eventually(lambda: _has_more(administrator, signs, before + 3))
            assert await _is_held_up(connection, "jobs")
            assert not scrape.done()
        await scrape
        await has_count(connection, 2, "status = 'running' and crashes = 1")
        assert "lease lapsed" not in supervisor.said
        await connection.fetch("select pushq.cancel(id) from unnest($1::uuid[]) as id", jobs)
    await administrator.close()


async def _is_held_up(connection: Connection, purpose: str) -> bool:
    statement = f"select count(*) > 0 {OURS} and application_name like '%: {purpose}' and wait_event_type = 'Lock'"
    return await connection.fetchval(statement) is True


async def _has_more(connection: Connection, statement: str, least: int) -> bool:
    return bool(await connection.fetchval(statement) >= least)


async def test_a_row_that_somebody_keeps_locked_holds_up_its_own_outcome_alone(
    database_url: str, connection: Connection
) -> None:
    operator = await asyncpg.connect(database_url)
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        (locked,) = await insert(connection, "sleep", payload={"seconds": 0.5})
        await has_count(connection, 1, "status = 'running'")
        async with _undone(operator):
            assert await operator.fetchval("select pushq.cancel($1)", locked) == "cancelled"
            await eventually(lambda: _has_said(supervisor, "outcomes held up jobs=1"))
            others = await finished(
                connection, *await insert(connection, "echo", 300), *await insert(connection, "fail")
            )
            assert (await row_of(connection, locked))["status"] == "running"
        (row,) = await finished(connection, locked)
        assert supervisor.pools == pools
        assert supervisor.stop() == 0
    await operator.close()

    assert {(other["status"], other["attempt"]) for other in others[:-1]} == {("succeeded", 1)}
    assert (row["status"], row["attempt"], row["crashes"], row["result"]) == ("succeeded", 1, 0, '"slept"')


async def test_who_cancels_two_jobs_in_one_transaction_is_no_victim_of_a_deadlock(
    database_url: str, connection: Connection
) -> None:
    """Outcomes lock rows in the order of their ids; this locks the later one first."""
    operator = await asyncpg.connect(database_url)
    with supervising(database_url) as supervisor:
        jobs = sorted(await insert(connection, "sleep", 2, payload={"seconds": 0.5}))
        await has_count(connection, 2, "status = 'running'")
        async with operator.transaction():
            done = [await operator.fetchval("select pushq.cancel($1)", jobs[1])]
            await eventually(lambda: _waits(connection, "%pushq.end_sorted(%"))
            await asyncio.sleep(1.5)  # who waited first has looked for a deadlock by now: the next to look loses
            done.append(await operator.fetchval("select pushq.cancel($1)", jobs[0]))
        assert done == ["cancelled", "already succeeded"]
        await eventually(lambda: _has_said(supervisor, "outcome refused"))
    await operator.close()

    assert [(await row_of(connection, job))["status"] for job in jobs] == ["succeeded", "cancelled"]


async def test_a_pool_that_cannot_write_outcomes_claims_no_more_than_it_can_hold(
    database_url: str, connection: Connection
) -> None:
    """As while somebody makes an index on the day's partition."""
    most = MOST_UNWRITTEN + LARGEST_BATCH + FURTHEST_AHEAD + 10  # unwritten, being written, ahead, begun
    administrator = await asyncpg.connect(database_url)
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        async with administrator.transaction():
            today = await administrator.fetchval("select 'jobs_' || to_char(pushq.current_day(), 'YYYY_MM_DD')")
            await administrator.execute(f"lock table pushq.{today} in share mode")
            jobs = await insert(connection, "echo", most + 2_000)
            await eventually(lambda: _stands_still(connection), within=30)
            running = await count(connection, "status = 'running'")
        rows = await finished(connection, *jobs, within=30)
        assert supervisor.pools == pools
    await administrator.close()

    assert 500 <= running <= most
    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}


async def _stands_still(connection: Connection) -> bool:
    """Whether some jobs run and none is claimed, nor ends, for a second."""
    before = await count(connection, "status = 'running'")
    await asyncio.sleep(1)
    return before == await count(connection, "status = 'running'") > 0


async def _has_said(supervisor: RunningSupervisor, words: str, times: int = 1) -> bool:
    return supervisor.said.count(words) >= times


@asynccontextmanager
async def _undone(connection: Connection) -> AsyncIterator[None]:
    """A transaction that is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


RENEWALS = """
create table public.renewals (ahead interval);
create function public.note_renewal() returns trigger language plpgsql
as 'begin insert into public.renewals values (new.lease_until - clock_timestamp()); return new; end';
create trigger note_renewal before update on pushq.supervisors for each row execute function public.note_renewal();
"""
WAITING = f"{OURS} and wait_event_type = 'Lock' and query like"


async def test_a_lease_and_a_stamp_that_waited_for_longer_than_a_lease_count_from_when_they_are_written(
    database_url: str, connection: Connection
) -> None:
    """A statement's own now() is when it was sent."""
    await connection.execute(RENEWALS)
    administrator = await asyncpg.connect(database_url)
    with supervising(database_url) as supervisor:
        (running,) = await insert(connection, "sleep", payload={"seconds": 3 * LEASE})
        await has_count(connection, 1, "status = 'running'")
        await asleep(connection)
        async with administrator.transaction():
            await administrator.execute("lock table pushq.supervisors in access exclusive mode")
            (late,) = await insert(connection, "sleep", payload={"seconds": 1})
            await eventually(lambda: _waits(connection, "-- The heartbeat of%"))
            await eventually(lambda: _pool_waits(connection))
            await asyncio.sleep(1.5 * LEASE)
            await connection.execute("truncate public.renewals")
        unlocked_at = await connection.fetchval("select clock_timestamp()")
        await has_count(connection, 2, "status = 'running'")
        claimed = await row_of(connection, late)
        rows = await finished(connection, running, late)
        ahead = await connection.fetchval("select extract(epoch from min(ahead)) from public.renewals")

        assert LEASE - 0.5 < ahead <= LEASE
        assert claimed["started_at"] > unlocked_at - timedelta(seconds=0.5)
        assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
        assert "lease lapsed" in supervisor.said  # so its pools were told to look again
    await administrator.close()


async def _waits(connection: Connection, statement: str) -> bool:
    return bool(await connection.fetchval(f"select exists (select {WAITING} $1)", statement))


async def _pool_waits(connection: Connection) -> bool:
    """With a claim, or with the question when the next job is due."""
    return await _waits(connection, "%pushq.lock_claimable(%") or await _waits(connection, "%pushq.next_due%")


@asynccontextmanager
async def busy(url: str) -> AsyncIterator[tuple[Connection, list[int]]]:
    """An administrator's connection, and beside it jobs that are inserted all the time; and how many there are."""
    inserted = [0]

    async def keep_inserting(producer: Connection) -> None:
        while True:
            await insert(producer, "echo", 5)
            await insert(producer, "snooze", 5, payload={"times": 1})
            inserted[0] += 10
            await asyncio.sleep(0.01)

    producer, administrator = await asyncpg.connect(url), await asyncpg.connect(url)
    inserting = asyncio.create_task(keep_inserting(producer))
    try:
        yield administrator, inserted
    finally:
        inserting.cancel()
        await asyncio.wait([inserting])
        await administrator.close()
        producer.terminate()


async def test_vacuum_full_under_load_costs_no_job(database_url: str, connection: Connection) -> None:
    with supervising(database_url, POLL_INTERVAL="0") as supervisor:
        pools = supervisor.pools
        async with busy(database_url) as (administrator, inserted):
            for _ in range(8):
                await administrator.execute("vacuum full pushq.jobs_unfinished")
                await asyncio.sleep(0.1)
        await _all_succeed(connection, at_least=inserted[0])
        assert supervisor.pools == pools


async def test_columns_that_are_added_and_dropped_under_load_cost_no_job(
    database_url: str, connection: Connection
) -> None:
    """Every statement is prepared, and its plan is invalid each time."""
    with supervising(database_url, POLL_INTERVAL="0") as supervisor:
        pools = supervisor.pools
        async with busy(database_url) as (administrator, inserted):
            done = 0
            for number in range(20):
                change = "add column if not exists extra int" if number % 2 == 0 else "drop column if exists extra"
                done += await _was_done(administrator.execute(f"alter table pushq.jobs {change}"))
                await asyncio.sleep(0.1)
        await _all_succeed(connection, at_least=inserted[0])
        assert done >= 15
        assert supervisor.pools == pools


async def _was_done(change: Awaitable[object]) -> bool:
    """DDL may lose a deadlock against outcomes: it locks the table, then its partitions; they do the reverse."""
    try:
        await change
    except asyncpg.DeadlockDetectedError:
        return False
    return True


async def _all_succeed(connection: Connection, *, at_least: int) -> None:
    await has_count(connection, 0, "finished_on = 'infinity'", within=30)
    assert await count(connection) >= at_least > 100
    assert await count(connection, "status <> 'succeeded' or crashes > 0") == 0
