"""A transaction pooler in between: notifications are swallowed, and no statement stays prepared.

PgBouncer as Debian 12 has it (1.18) knows nothing of prepared statements: the worst there is.
"""

from __future__ import annotations

import pytest

from tests.support.jobs import Connection, finished, insert
from tests.support.metrics import scrape, shows
from tests.support.pgbouncer import pooling
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually

TASKS = "tests.prove.faults.handlers:tasks"


@pytest.mark.timeout(150)  # the package may have to be fetched
async def test_behind_a_transaction_pooler_a_pool_finds_that_it_only_polls_and_says_so_once(
    database_url: str, connection: Connection
) -> None:
    with (
        pooling(database_url) as pooled,
        supervising(pooled, tasks=TASKS, POLL_INTERVAL="3600", TEST_CANARY="0.3,0.5") as supervisor,
    ):
        quick = await insert(connection, "echo", 300, payload={"word": "pooled"})
        slow = await insert(connection, "sleep", 10, payload={"seconds": 0.3})
        failing = await insert(connection, "fail", 5)
        rows = await finished(connection, *quick, *slow, *failing)
        assert [row["status"] for row in rows] == ["succeeded"] * 310 + ["failed"] * 5
        # It tries again and again to listen, looks for jobs each time that it hears nothing, and does not say it again.
        await eventually(lambda: _has_been_woken(supervisor, 4))
        await finished(connection, *await insert(connection, "echo", 3), within=10)

        assert scrape(supervisor, "pushq_listener_up") == 0
        (said,) = [line for line in supervisor.said.splitlines() if "bell" in line]
        assert "bell down" in said
        assert "PUSHQ_LISTEN_DATABASE_URL" in said
        assert "prepared statement" not in supervisor.said
        assert "died" not in supervisor.said
        assert supervisor.stop() == 0
    assert await connection.fetchval("select count(*) from pushq.supervisors") == 0


async def _has_been_woken(supervisor: RunningSupervisor, times: int) -> bool:
    return scrape(supervisor, "pushq_wakeups_total", source="notify") >= times


async def test_with_a_connection_of_its_own_for_the_listener_the_bell_rings_behind_a_transaction_pooler(
    database_url: str, connection: Connection
) -> None:
    with (
        pooling(database_url) as pooled,
        supervising(pooled, LISTEN_DATABASE_URL=database_url, POLL_INTERVAL="0") as supervisor,
    ):

        async def jobs_have_woken_it() -> bool:
            await finished(connection, *await insert(connection, "echo", 3))
            return await _has_been_woken(supervisor, 3)

        # Again and again: a pool that is just looking for jobs needs no notification.
        await eventually(jobs_have_woken_it)
        await finished(connection, *await insert(connection, "die.once"))

        await shows(supervisor, "pushq_listener_up", 1)
        assert "bell down" not in supervisor.said
