"""Guarantees 3 and 4: a job has one owner; being slow is no reason to run it again; a late finisher changes nothing."""

from __future__ import annotations

import os
import signal

from tests.support.jobs import Connection, finished, has_count, insert, row_of
from tests.support.supervisors import supervising
from tests.support.waiting import eventually, wait_until


async def test_a_handler_that_blocks_its_loop_for_five_leases_is_run_once(
    database_url: str, connection: Connection
) -> None:
    with (
        supervising(database_url, HEARTBEAT_INTERVAL="0.2", LEASE="0.6", SWEEP_INTERVAL="0.2"),
        supervising(database_url, HEARTBEAT_INTERVAL="0.2", LEASE="0.6", SWEEP_INTERVAL="0.2"),
    ):
        (row,) = await finished(connection, *await insert(connection, "block", payload={"seconds": 3.0}))

    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 1, 0)


async def test_a_supervisor_that_was_stopped_past_its_lease_loses_its_jobs_and_its_late_outcomes(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as first:
        (job,) = await insert(connection, "sleep", payload={"seconds": 1.0})
        await has_count(connection, 1, "status = 'running'")
        os.killpg(first.process.pid, signal.SIGSTOP)
        with supervising(database_url):
            (row,) = await finished(connection, job)
            os.killpg(first.process.pid, signal.SIGCONT)
            wait_until(lambda: "outcome refused" in first.said)
            wait_until(lambda: "lease lapsed" in first.said)

            assert (row["attempt"], row["crashes"]) == (2, 1)
            assert row == await row_of(connection, job)
            # and it is a good supervisor again
            await finished(connection, *await insert(connection, "echo", 5))


async def test_a_pause_of_the_database_longer_than_the_lease_declares_nobody_dead(
    database_url: str, connection: Connection
) -> None:
    """The leases are made to run out at once, as they seem to after a pause; the counters go on."""
    with supervising(database_url), supervising(database_url):
        (job,) = await insert(connection, "sleep", payload={"seconds": 2.5})
        await has_count(connection, 1, "status = 'running'")
        for _ in range(10):
            await connection.execute("update pushq.supervisors set lease_until = now() - interval '1 hour'")
            await eventually(lambda: _revived(connection))
        (row,) = await finished(connection, job)

    assert (row["status"], row["attempt"]) == ("succeeded", 1)


async def _revived(connection: Connection) -> bool:
    return bool(await connection.fetchval("select bool_and(lease_until > now()) from pushq.supervisors"))


async def test_jobs_queued_while_the_lease_had_lapsed_are_claimed_when_it_lives_again(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        await connection.execute("update pushq.supervisors set lease_until = now() - interval '1 hour'")
        await finished(connection, *await insert(connection, "echo", 3), within=10)
