"""An INSERT goes round the trigger, or means to."""

from __future__ import annotations

from uuid import UUID

from tests.support.jobs import Connection, finished, insert
from tests.support.pools import asleep
from tests.support.supervisors import supervising


async def test_an_insert_of_a_replication_stream_rings(database_url: str, connection: Connection) -> None:
    """As logical replication and some restores do: ordinary triggers do not fire."""
    with supervising(database_url, POLL_INTERVAL="0"):
        await connection.execute("set session_replication_role = replica")
        for _ in range(3):
            await finished(connection, *await insert(connection, "echo"), within=5)


async def test_an_insert_straight_into_the_partition_rings(database_url: str, connection: Connection) -> None:
    straight = "insert into pushq.jobs_unfinished (task) values ('echo') returning id"
    with supervising(database_url, POLL_INTERVAL="0"):
        for role in ("origin", "replica"):
            await connection.execute(f"set session_replication_role = {role}")
            for _ in range(3):
                await finished(connection, await connection.fetchval(straight), within=5)


async def test_while_the_owner_has_disabled_the_trigger_the_poll_finds_jobs(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("alter table pushq.jobs_unfinished disable trigger jobs_ring_the_bell")
    with supervising(database_url, POLL_INTERVAL="0.5"):
        for _ in range(3):
            await finished(connection, *await insert(connection, "echo"), within=0.5 + 1)


async def test_without_trigger_and_poll_a_job_waits_until_somebody_rings(
    database_url: str, connection: Connection
) -> None:
    """The negative control: nothing else has found the jobs above."""
    await connection.execute("alter table pushq.jobs_unfinished disable trigger jobs_ring_the_bell")
    with supervising(database_url, POLL_INTERVAL="0"):
        waiting = await _one_that_waits(connection)
        await connection.execute("select pushq.ring('default')")
        await finished(connection, waiting, within=5)


async def _one_that_waits(connection: Connection) -> UUID:
    """A pool that has been held up looks about for a while: the first job or two may be found."""
    since = "-infinity"
    for _ in range(10):
        await asleep(connection, since=since)
        since = await connection.fetchval("select clock_timestamp()::text")
        (job,) = await insert(connection, "echo")
        try:
            await finished(connection, job, within=1.5)
        except AssertionError:
            return job
    raise AssertionError("each job was found by somebody")
