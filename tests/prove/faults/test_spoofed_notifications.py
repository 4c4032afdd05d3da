"""Anybody may notify: a storm on pushq's channel costs a bounded number of claims, and holds up no job."""

from __future__ import annotations

import asyncio
import random
import time

import asyncpg

from pushq.events import WAKEUPS
from tests.support.jobs import Connection, finished, insert
from tests.support.metrics import scrape
from tests.support.roles import a_login_each
from tests.support.supervisors import RunningSupervisor, supervising

SECONDS = 4.0
BURST = 50
"""Notifications of a transaction. Two of them name the pool's own queue and everybody; equal ones would collapse."""
BURSTS_A_SECOND = 100
_REPORT = 1.0
"""Seconds by which the first figures may be old: a pool reports its wake-ups from time to time."""


async def test_a_storm_of_false_notifications_costs_a_bounded_number_of_claims_and_holds_up_no_job(
    database_url: str, connection: Connection
) -> None:
    async with a_login_each(connection, database_url) as logins:
        bystander = await asyncpg.connect(logins.url_as("bystander"))
        with supervising(database_url, POLL_INTERVAL="0") as supervisor:
            pools = supervisor.pools
            began, before = time.monotonic(), _wakeups(supervisor)
            storm = asyncio.create_task(_storm(bystander))
            slowest = 0.0
            while not storm.done():
                (row,) = await finished(connection, *await insert(connection, "echo"))
                slowest = max(slowest, (row["started_at"] - row["enqueued_at"]).total_seconds())
                await asyncio.sleep(0.2)
            notified, after = await storm, _wakeups(supervisor)
            seconds = time.monotonic() - began
            wakeups = {source: count - before[source] for source, count in after.items()}
            heard = scrape(supervisor, "pushq_notifications_received_total")
            assert supervisor.pools == pools
            assert supervisor.stop() == 0
        await bystander.close()
        looks = await _looks(connection)

    # Else it was no storm.
    assert notified / seconds > 2000
    assert heard > notified / 2
    allowed = 20 + 20 * (seconds + _REPORT)
    assert wakeups["notify"] <= allowed
    assert sum(wakeups.values()) <= 3 * allowed
    assert looks <= 3 * sum(after.values()) + 100  # a claim a wake-up, and a look at what is due next
    assert slowest < 2


async def _looks(connection: Connection) -> int:
    """How often anybody has looked into the index of what may be claimed. A session tells it when it ends."""
    await connection.execute("select pg_stat_force_next_flush()")
    claimable = "indexrelname = 'jobs_unfinished_claimable'"
    return int(await connection.fetchval(f"select idx_scan from pg_stat_user_indexes where {claimable}"))


def _wakeups(supervisor: RunningSupervisor) -> dict[str, float]:
    return {source: scrape(supervisor, "pushq_wakeups_total", source=source) for source in WAKEUPS}


async def _storm(bystander: Connection) -> int:
    """How many notifications were sent."""
    chance, sent = random.Random(5), 0
    ends_at = time.monotonic() + SECONDS
    while (began := time.monotonic()) < ends_at:
        payloads = ["default", "", *(_payload(chance) for _ in range(BURST - 2))]
        await bystander.execute("select pg_notify('pushq', payload) from unnest($1::text[]) as payload", payloads)
        sent += BURST
        await asyncio.sleep(max(0.0, began + 1 / BURSTS_A_SECOND - time.monotonic()))
    return sent


def _payload(chance: random.Random) -> str:
    letters = "abc{}[]\"'\\%; \n\t\x1b\N{SNOWMAN}"
    return "".join(chance.choices(letters, k=chance.choice([1, 5, 20, 60, 1000])))


async def test_no_payload_harms_a_pool(database_url: str, connection: Connection) -> None:
    with supervising(database_url, POLL_INTERVAL="0") as supervisor:
        pools = supervisor.pools
        for payload in ("{" * 7999, "\N{SNOWMAN}" * 2600, "\x1b]0;title\x07\r\n", "default\n", "DEFAULT", " "):
            await connection.execute("select pg_notify('pushq', $1)", payload)
            await finished(connection, *await insert(connection, "echo"), within=5)

        assert supervisor.pools == pools
