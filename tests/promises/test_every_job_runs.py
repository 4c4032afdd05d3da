"""Guarantees 1, 2 and 5: a committed INSERT is run, at once and without polling; a rolled-back one never existed."""

from __future__ import annotations

import asyncio
import random
import subprocess
from pathlib import Path
from typing import Literal
from uuid import UUID

import asyncpg

from tests.support.jobs import Connection, count, finished, has_count, insert, row_of
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

ISOLATIONS: list[Literal["read_committed", "repeatable_read", "serializable"]] = [
    "read_committed",
    "repeatable_read",
    "serializable",
]
# Of our own database alone: other tests share the server.
SESSIONS = "from pg_stat_activity where datname = current_database() and application_name like "


async def test_a_job_inserted_by_psql_starts_without_any_polling(
    database_url: str, connection: Connection, server_bin_directory: Path
) -> None:
    statement = "insert into pushq.jobs (task, payload) values ('echo', '{\"a\": 1}') returning id"
    with supervising(database_url, POLL_INTERVAL="0"):
        for _ in range(5):
            psql = [str(server_bin_directory / "psql"), database_url, "-Atqc", statement]
            printed = subprocess.run(psql, capture_output=True, text=True, check=True).stdout
            (row,) = await finished(connection, UUID(printed.strip()), within=5)

            assert row["status"] == "succeeded"
            assert row["result"] == '{"a": 1}'


async def test_no_wake_up_is_lost_when_transactions_stay_open_for_random_times(
    database_url: str, connection: Connection
) -> None:
    chance = random.Random(7)

    async def produce(jobs: int) -> None:
        own = await asyncpg.connect(database_url)
        for _ in range(jobs):
            await asyncio.sleep(chance.random() * 0.02)
            async with own.transaction(isolation=chance.choice(ISOLATIONS)):
                await insert(own, "echo")
                await asyncio.sleep(chance.choice([0, 0, 0, chance.random() * 0.1]))
        await own.close()

    with supervising(database_url, "--concurrency", "4", POLL_INTERVAL="0"):
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(produce(50))

        await has_count(connection, 400, "status = 'succeeded'")


async def test_a_transaction_that_inserted_before_the_pool_was_idle_and_commits_late_is_seen(
    database_url: str, connection: Connection
) -> None:
    inserter = await asyncpg.connect(database_url)
    transaction = inserter.transaction()
    await transaction.start()
    (early,) = await insert(inserter, "echo")  # nobody is idle yet: it skips the bell
    with supervising(database_url, POLL_INTERVAL="0"):
        await finished(connection, *await insert(connection, "echo"))

        await transaction.commit()

        await finished(connection, early, within=5)
    await inserter.close()


async def test_an_inserted_job_that_is_rolled_back_never_existed(database_url: str, connection: Connection) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        transaction = connection.transaction()
        await transaction.start()
        await insert(connection, "echo")
        await transaction.rollback()
        await finished(connection, *await insert(connection, "echo"))

    assert await count(connection) == 1


async def test_a_job_for_later_starts_at_its_time_and_one_for_earlier_wakes_the_sleeper(
    database_url: str, connection: Connection
) -> None:
    soon = (
        "insert into pushq.jobs (task, run_at) values ('echo', now() + $1::float8 * interval '1 second') returning id"
    )
    with supervising(database_url, POLL_INTERVAL="0"):
        late = await connection.fetchval(soon, 1.5)
        early = await connection.fetchval(soon, 0.5)
        rows = await finished(connection, early, late, within=10)

    assert all(row["started_at"] >= row["run_at"] for row in rows)
    assert all((row["started_at"] - row["run_at"]).total_seconds() < 0.5 for row in rows)


async def test_jobs_are_found_by_polling_alone(database_url: str, connection: Connection) -> None:
    with supervising(database_url, WAKE="poll", POLL_INTERVAL="0.2"):
        await finished(connection, *await insert(connection, "echo", 20), within=5)


async def test_jobs_inserted_with_notifications_off_are_found_by_the_poll(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0.5"):
        await connection.execute("set pushq.notify = 'off'")
        await finished(connection, *await insert(connection, "echo"), within=5)


async def test_a_prepared_transaction_is_rung_by_hand(database_url: str, connection: Connection) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        await finished(connection, *await insert(connection, "echo"))
        await connection.execute(
            "begin; set local pushq.notify = 'off'; insert into pushq.jobs (task) values ('echo');"
            "prepare transaction 'two-phase'"
        )
        await connection.execute("commit prepared 'two-phase'")
        assert await connection.fetchval("select pushq.ring('default')") == "rung"

        await has_count(connection, 2, "status = 'succeeded'", within=5)


async def test_after_the_listener_was_cut_off_nothing_is_missed(database_url: str, connection: Connection) -> None:
    cut = f"select count(pg_terminate_backend(pid)) {SESSIONS} '%listens'"
    with supervising(database_url, POLL_INTERVAL="0"):
        for _ in range(10):
            assert await connection.fetchval(cut) == 1
            await finished(connection, *await insert(connection, "echo", 3), within=10)

            async def listens() -> bool:
                return bool(await connection.fetchval(f"select true {SESSIONS} '%listens'"))

            await eventually(listens)


async def test_after_the_database_was_cut_off_the_pool_comes_back(database_url: str, connection: Connection) -> None:
    cut = f"select count(pg_terminate_backend(pid)) {SESSIONS} 'pushq %'"
    with supervising(database_url) as supervisor:
        (running,) = await insert(connection, "sleep", payload={"seconds": 1})

        async def runs() -> bool:
            return bool((await row_of(connection, running))["status"] == "running")

        await eventually(runs)
        assert await connection.fetchval(cut) >= 4
        rows = await finished(connection, running, *await insert(connection, "echo", 3))

        assert [row["attempt"] for row in rows] == [1, 1, 1, 1]
        assert supervisor.process.poll() is None


async def test_any_number_of_pools_share_the_jobs_and_none_runs_twice(
    database_url: str, connection: Connection
) -> None:
    with (
        supervising(database_url, "--processes", "2", POLL_INTERVAL="0"),
        supervising(database_url, POLL_INTERVAL="0"),
    ):
        await insert(connection, "pid", 500)
        await has_count(connection, 500, "status = 'succeeded'")

    assert await count(connection, "attempt <> 1") == 0


async def test_a_paused_queue_waits_and_a_resumed_one_is_claimed_at_once(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, "--queue", "paused", "--queue", "open", POLL_INTERVAL="0"):
        await connection.fetchval("select pushq.pause('paused')")
        (waiting,) = await insert(connection, "echo", queue="paused", priority=-10)
        (unserved,) = await insert(connection, "echo", queue="elsewhere")
        # Claimed after the two, and less urgent than the one that waits.
        await finished(connection, *await insert(connection, "echo", 30, queue="open"), within=5)
        assert (await row_of(connection, waiting))["status"] == "queued"

        await connection.fetchval("select pushq.resume('paused')")
        await finished(connection, waiting, within=5)
        assert (await row_of(connection, unserved))["status"] == "queued"


async def test_a_task_that_nobody_knows_stays_queued_and_holds_up_nobody(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        (unknown,) = await insert(connection, "unheard.of", priority=-10)
        await finished(connection, *await insert(connection, "echo", 30))

        assert (await row_of(connection, unknown))["status"] == "queued"


async def test_under_a_pinned_horizon_even_a_job_that_says_it_was_due_long_ago_runs(
    database_url: str, connection: Connection
) -> None:
    pinning = await asyncpg.connect(database_url)
    async with pinning.transaction(isolation="repeatable_read"):
        await pinning.execute("select count(*) from pushq.jobs")
        with supervising(database_url, POLL_INTERVAL="0"):
            done = await insert(connection, "echo", 40_000)
            await has_count(connection, len(done), "status = 'succeeded'", within=40)
            for age in ("0 s", "1 h", "0 s"):
                run_at = await connection.fetchval("select now() - $1::text::interval", age)
                await finished(connection, *await insert(connection, "echo", run_at=run_at), within=10)
    await pinning.close()


async def _is_open(connection: Connection, queue: str = "default") -> bool:
    gate = "pg_sequence_last_value(pushq.gate($1))"
    return bool(await connection.fetchval(f"select coalesce({gate} > pushq.gate_clock(), false)", queue))


async def _is_shut(connection: Connection, queue: str = "default") -> bool:
    return not await _is_open(connection, queue)


async def test_amid_a_stream_of_jobs_inserters_need_not_ring_although_workers_are_free(
    database_url: str, connection: Connection
) -> None:
    jobs: list[UUID] = []
    is_enough = asyncio.Event()

    async def stream() -> None:
        producer = await asyncpg.connect(database_url)
        while not is_enough.is_set():
            jobs.extend(await insert(producer, "echo", 3))
        await producer.close()

    many = "2000"  # so that no claim takes all that it can, which would shut the gate too
    with supervising(database_url, "--concurrency", many, POLL_INTERVAL="0"):
        await eventually(lambda: _is_open(connection))
        async with asyncio.TaskGroup() as group:
            group.create_task(stream())
            await eventually(lambda: _is_shut(connection))
            is_enough.set()
        await finished(connection, *jobs)
        await eventually(lambda: _is_open(connection))
        await finished(connection, *await insert(connection, "echo"), within=5)


async def test_an_idle_pool_opens_the_gate_again_that_a_busy_one_has_shut(
    database_url: str, connection: Connection
) -> None:
    assert await connection.fetchval("select pushq.gate('default') <> pushq.gate('other')")
    flags = "--concurrency", "1", "--queue", "default"
    with (
        supervising(database_url, *flags, POLL_INTERVAL="0"),
        supervising(database_url, *flags, "--queue", "other", POLL_INTERVAL="0", SHUTDOWN_TIMEOUT="0.1"),
    ):
        await eventually(lambda: _is_open(connection, "default"))
        await eventually(lambda: _is_open(connection, "other"))
        await insert(connection, "sleep", queue="other", payload={"seconds": 60})
        await eventually(lambda: _is_shut(connection, "other"))
        await finished(connection, *await insert(connection, "echo"), within=5)


async def test_a_job_starts_at_once_while_an_inserter_of_long_ago_is_still_open(
    database_url: str, connection: Connection
) -> None:
    inserter = await asyncpg.connect(database_url)
    async with inserter.transaction():
        await insert(inserter, "echo")
        with supervising(database_url, POLL_INTERVAL="0"):
            await finished(connection, *await insert(connection, "echo", 3))
            async with asyncio.timeout(10):  # each would wait for up to a second while the pool asks who is still open
                for _ in range(30):
                    await finished(connection, *await insert(connection, "echo"))
    await inserter.close()
