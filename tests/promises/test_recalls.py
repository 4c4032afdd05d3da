"""A job that is cancelled by hand while it runs: its handler is stopped, and its worker is free."""

from __future__ import annotations

import asyncio
import random
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
