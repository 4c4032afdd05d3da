"""A job that is cancelled by hand while it runs: its handler is stopped, and its worker is free."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from hashlib import sha256
from uuid import UUID

import asyncpg
import pytest

from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import wait_until

CALLS = {
    "cancel": "select pushq.cancel($1)",
    "change": "select pushq.change($1, 'running', 'cancelled')",
    "delete_tenant": "select pushq.delete_tenant(tenant_id) from pushq.jobs where id = $1",
}


async def running(connection: Connection, task: str, count: int = 1, **columns: object) -> list[UUID]:
    jobs = await insert(connection, task, count, **columns)
    await has_count(connection, count, f"status = 'running' and task = '{task}'")
    return jobs


def recalled(supervisor: RunningSupervisor, handler: str, times: int = 1) -> None:
    wait_until(lambda: supervisor.said.count(f"handler={handler}") == times)
    assert supervisor.said.count("job recalled") == times
    assert "outcome refused" not in supervisor.said


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_an_async_handler_is_cancelled_and_its_worker_takes_the_next_job(
    connection: Connection, database_url: str, call: str
) -> None:
    with supervising(database_url, "--concurrency", "1") as supervisor:
        (job,) = await running(connection, "until.cancelled", tenant_id="acme")
        began = time.monotonic()
        await connection.execute(call, job)
        await finished(connection, *await insert(connection, "echo"))
        assert time.monotonic() - began < 5
        recalled(supervisor, "stopped")
        assert supervisor.stop() == 0


@pytest.mark.parametrize(("stubborn", "handler"), [(2, "stopped"), (5, "stopped")])
async def test_a_handler_that_swallows_the_cancellation_is_cancelled_again(
    connection: Connection, database_url: str, stubborn: int, handler: str
) -> None:
    with supervising(database_url, "--concurrency", "1") as supervisor:
        (job,) = await running(connection, "until.cancelled", payload={"stubborn": stubborn})
        await connection.execute("select pushq.cancel($1)", job)
        await finished(connection, *await insert(connection, "echo"))
        recalled(supervisor, handler)
        assert f"cancelled {stubborn + 1}" in supervisor.said
    assert await connection.fetchval("select status from pushq.jobs where id = $1", job) == "cancelled"


@pytest.mark.parametrize(("task", "handler"), [("until.told", "returned"), ("until.checked", "stopped")])
async def test_a_handler_in_a_thread_is_told_and_may_return(
    connection: Connection, database_url: str, task: str, handler: str
) -> None:
    with supervising(database_url, "--concurrency", "1") as supervisor:
        (job,) = await running(connection, task)
        await connection.execute("select pushq.cancel($1)", job)
        await finished(connection, *await insert(connection, "echo"))
        recalled(supervisor, handler)
    ended = await connection.fetchval("select array[status, result::text, error] from pushq.jobs where id = $1", job)
    assert ended == ["cancelled", None, None]


async def test_in_a_batch_each_job_is_told_and_the_last_stops_the_handler(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url) as supervisor:
        async with connection.transaction():
            (stay,) = await insert(connection, "batch.until.cancelled", payload={"ends": True})
            (leave,) = await insert(connection, "batch.until.cancelled", payload={"ends": False})
        await has_count(connection, 2, "status = 'running'")
        await connection.execute("select pushq.cancel($1)", leave)
        await finished(connection, *await insert(connection, "echo"))
        assert await connection.fetchval("select status from pushq.jobs where id = $1", stay) == "running"
        await connection.execute("select pushq.cancel($1)", stay)
        wait_until(lambda: supervisor.said.count("job recalled") == 2)
        assert supervisor.stop() == 0


async def test_jobs_that_are_cancelled_while_they_wait_for_a_worker_stay_cancelled(
    connection: Connection, database_url: str
) -> None:
    """Quick jobs are claimed ahead. Amid them is one that holds up the jobs claimed with it."""
    with supervising(database_url, "--concurrency", "1") as supervisor:
        async with connection.transaction():
            await insert(connection, "block", 2500, payload={"seconds": 0})
            (slow,) = await insert(connection, "block", payload={"seconds": 0.2})
            await insert(connection, "block", 2500, payload={"seconds": 0})
        await has_count(connection, 1, f"id = '{slow}' and status = 'running'")
        behind = "status = 'running' and id > $1 order by id desc limit 20"
        did = await connection.fetch(f"select id, pushq.cancel(id) from pushq.jobs where {behind}", slow)
        cancelled = [row["id"] for row in did if row["cancel"] == "cancelled"]
        await has_count(connection, 0, "status in ('queued', 'running')")
        assert await count(connection, "status = 'cancelled'") == len(cancelled)
        assert "Traceback" not in supervisor.said


async def test_a_cancel_that_is_rolled_back_stops_nobody(connection: Connection, database_url: str) -> None:
    with supervising(database_url) as supervisor:
        (job,) = await running(connection, "sleep", payload={"seconds": 0.5})
        await connection.execute(f"begin; select pushq.cancel('{job}'); rollback")
        (row,) = await finished(connection, job)
        assert "job recalled" not in supervisor.said
    assert row["status"] == "succeeded"


async def test_whoever_does_not_know_the_token_stops_nobody_and_a_storm_costs_little(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url, "--concurrency", "50") as supervisor:
        jobs = await running(connection, "sleep", 50, payload={"seconds": 2})
        old = UUID(int=7)
        guesses = [sha256(f"{job}{old}".encode()).hexdigest() for job in jobs] + [str(job) for job in jobs]
        guesses += ["", "x" * 64, "\n" * 64, "x" * 7000]
        for _ in range(40):
            notify = "select pg_notify('pushq_cancel', payload) from unnest($1::text[]) as payload"
            await connection.execute(notify, [*guesses, *(f"{random.getrandbits(256):064x}" for _ in range(500))])
        (row,) = await finished(connection, *await insert(connection, "echo", queue="default", priority=-1), within=8)
        rows = await finished(connection, *jobs)
        assert {one["status"] for one in [row, *rows]} == {"succeeded"}
        assert "job recalled" not in supervisor.said


async def test_a_cancel_in_the_instant_of_the_end_counts_or_not_and_nothing_else(
    connection: Connection, database_url: str
) -> None:
    chance = random.Random(7)
    with supervising(database_url, "--concurrency", "20") as supervisor:
        jobs = await insert(connection, "sleep", 300, payload={"seconds": 0.02})
        said = Counter[str]()
        for job in chance.sample(jobs, len(jobs)):
            said[str(await connection.fetchval("select pushq.cancel($1)", job))] += 1
            await asyncio.sleep(chance.random() * 0.002)
        rows = await finished(connection, *jobs)
        assert supervisor.stop() == 0
        assert "Traceback" not in supervisor.said
    assert Counter(row["status"] for row in rows) == {
        "cancelled": said["cancelled"], "succeeded": said["already succeeded"],
    }  # fmt: skip


async def test_without_notifications_the_handler_runs_on_and_its_outcome_is_refused(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url, WAKE="poll", POLL_INTERVAL="0.2") as supervisor:
        (job,) = await running(connection, "sleep", payload={"seconds": 0.5})
        await connection.execute("select pushq.cancel($1)", job)
        wait_until(lambda: "outcome refused" in supervisor.said)
        assert "job recalled" not in supervisor.said


async def test_an_earlier_claim_is_recalled_and_the_new_one_runs_on(connection: Connection, database_url: str) -> None:
    with supervising(database_url) as supervisor:
        (job,) = await running(connection, "sleep", payload={"seconds": 1})
        other = await asyncpg.connect(database_url)
        token = await other.fetchval("select token from pushq.jobs where id = $1", job)
        await other.execute("select pushq.change($1, 'running', 'queued')", job)
        await has_count(connection, 1, f"status = 'running' and token <> '{token}'")
        await other.execute("select pushq.recall($1, $2)", job, token)  # once more, late
        (row,) = await finished(connection, job)
        await other.close()
        recalled(supervisor, "stopped")
    assert (row["status"], row["attempt"]) == ("succeeded", 2)


# A job that others wait for ------------------------------------------------------------------------------------------


async def cancelling(connection: Connection, job: UUID) -> None:
    assert await connection.fetchval("select pushq.cancel($1)", job) == "cancelling"
    assert await connection.fetchval("select pushq.cancel($1, 'running')", job) == "cancelling"
    row = await connection.fetchrow("select status, apart from pushq.jobs where id = $1", job)
    assert tuple(row or ()) in {("running", "cancelling"), ("cancelled", None)}


async def kinds(connection: Connection, job: UUID) -> list[str]:
    rows = await connection.fetch("select kind from pushq.job_events where job_id = $1 order by id", job)
    return [row["kind"] for row in rows]


async def test_a_waiter_is_told_of_a_cancel_when_the_handler_has_stopped(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url) as supervisor:
        (job,) = await running(connection, "until.cancelled", payload={"stubborn": 30}, waiters=["pushq_a"])
        told = asyncio.Queue[str]()
        await connection.add_listener("pushq_a", lambda *said: told.put_nowait(str(said[3])))
        await cancelling(connection, job)
        assert await asyncio.wait_for(told.get(), 10) == f"{job} cancelled"
        assert "cancelled 31" in supervisor.said
        recalled(supervisor, "stopped")
    (row,) = await finished(connection, job)
    assert (row["status"], row["error"], row["apart"]) == ("cancelled", "cancelled by hand", None)
    assert await kinds(connection, job) == ["cancelling", "cancelled"]


async def test_a_job_that_nobody_waits_for_ends_at_once_also_when_a_guest_holds_it(connection: Connection) -> None:
    (job,) = await insert(connection, "any", waiters=["pushq_a"])
    assert await connection.fetchval("select pushq.take($1, 'anna') is not null", job)
    assert await connection.fetchval("select pushq.cancel($1)", job) == "cancelled"


@pytest.mark.parametrize("kind", ["retried", "snoozed", "released", "succeeded", "failed"])
async def test_a_job_that_is_being_cancelled_goes_on_no_more_whatever_comes_of_it(
    connection: Connection, kind: str
) -> None:
    """The pool was not told, as in PUSHQ_WAKE=poll."""
    job = await of_a_pool(connection)
    await cancelling(connection, job)
    token = await connection.fetchval("select token from pushq.jobs where id = $1", job)
    assert await connection.fetchval("select pushq.finish($1, $2, $3, delay => '1 hour')", job, token, kind)
    (row,) = await finished(connection, job)
    assert row["status"] == (kind if kind in ("succeeded", "failed") else "cancelled")
    last = "cancelling" if kind == "succeeded" else row["status"]
    assert (await kinds(connection, job))[-1] == last


async def test_a_job_that_is_being_cancelled_ends_with_its_pool(connection: Connection, database_url: str) -> None:
    with supervising(database_url, sweep_interval="0.2") as supervisor:
        (job,) = await running(connection, "until.told", waiters=["pushq_a"])
        await connection.execute("set pushq.notify = 'off'")
        await cancelling(connection, job)
        (pool,) = supervisor.pools
        os.kill(pool, signal.SIGKILL)
        (row,) = await finished(connection, job)
    assert (row["status"], row["crashes"]) == ("cancelled", 0)


async def test_a_cancel_that_is_lost_on_its_way_is_told_again(connection: Connection, database_url: str) -> None:
    with supervising(database_url, sweep_interval="0.2"):
        (job,) = await running(connection, "until.cancelled", waiters=["pushq_a"])
        await connection.execute("set pushq.notify = 'off'")
        await cancelling(connection, job)
        (row,) = await finished(connection, job)
    assert row["status"] == "cancelled"


async def test_an_operator_may_take_the_job_back_instead(connection: Connection) -> None:
    job = await of_a_pool(connection)
    await cancelling(connection, job)
    assert await connection.fetchval("select pushq.change($1, 'running', 'queued')", job) == "queued"
    assert await connection.fetchval("select apart from pushq.jobs where id = $1", job) is None


async def of_a_pool(connection: Connection) -> UUID:
    """A running job that somebody waits for. Its pool is not told of anything."""
    (job,) = await insert(connection, "any", waiters=["pushq_a"])
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('s', 'here', 1, '1 hour', now() + interval '1 hour')"
    )
    await connection.execute(
        "update pushq.jobs set status = 'running', attempt = 1, supervisor = 's', pool = 1, token = gen_random_uuid(), "
        "started_at = now() where id = $1",
        job,
    )
    await connection.execute("truncate pushq.job_events")
    return job
