"""What is claimed ahead of the workers holds nothing up, and fills no memory."""

from __future__ import annotations

import json

from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.supervisors import supervising
from tests.support.waiting import eventually


async def test_jobs_that_cannot_start_soon_are_given_back_for_another_pool(
    database_url: str, connection: Connection
) -> None:
    quick = await insert(connection, "echo", 2000, payload={"word": "quick"})
    slow = await insert(connection, "sleep", 300, payload={"seconds": 60})
    with supervising(database_url, "--concurrency", "2", SHUTDOWN_TIMEOUT="0.1"):
        await finished(connection, *quick)
        await has_count(connection, 2, "status = 'running'")

        assert await count(connection, "status = 'queued' and failures = 0 and crashes = 0") == len(slow) - 2
        with supervising(database_url, "--concurrency", "5", SHUTDOWN_TIMEOUT="0.1"):
            await has_count(connection, 7, "status = 'running'")


async def test_jobs_claimed_ahead_are_released_when_the_pool_drains(database_url: str, connection: Connection) -> None:
    with supervising(database_url, "--concurrency", "2") as supervisor:
        await insert(connection, "sleep", 20_000, payload={"seconds": 0.001})

        async def is_under_way() -> bool:
            return await count(connection, "status = 'succeeded'") > 100

        await eventually(is_under_way)
        assert supervisor.stop() == 0

    assert await count(connection, "status = 'running'") == 0
    assert await count(connection, "failures > 0 or crashes > 0") == 0
    assert await count(connection) == 20_000


async def test_a_payload_too_large_to_come_with_its_claim_reaches_the_handler(
    database_url: str, connection: Connection
) -> None:
    word = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(250_000))  # hardly to be compressed
    jobs = await insert(connection, "echo", 20, payload={"word": word})
    with supervising(database_url):
        rows = await finished(connection, *jobs)

    assert [json.loads(row["result"]) for row in rows] == [{"word": word}] * 20
