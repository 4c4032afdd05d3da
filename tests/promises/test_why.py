"""Why a job waits, and where it stands in line."""

from __future__ import annotations

import json
import random
from typing import Any
from uuid import UUID

from tests.support.jobs import Connection, insert


async def why(connection: Connection, job: UUID) -> dict[str, tuple[str, Any]]:

    rows = await connection.fetch("select * from pushq.why($1)", job)
    return {row["cause"]: (row["sentence"], json.loads(row["detail"])) for row in rows}


async def supervisor(connection: Connection, *tasks: str) -> None:
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues, workers) "
        "values ('anna', 'here', 1, '1 hour', now() + interval '1 hour', $1, '{default}', 10)",
        list(tasks),
    )


async def test_a_job_that_nothing_keeps_waiting_has_no_cause(connection: Connection) -> None:
    await supervisor(connection, "echo")
    [job] = await insert(connection, "echo")
    assert await why(connection, job) == {}


async def test_each_cause_is_a_sentence_and_data(connection: Connection) -> None:
    [job] = await insert(connection, "echo")
    assert list(await why(connection, job)) == ["unserved"]
    await supervisor(connection, "other")
    assert list(await why(connection, job)) == ["unknown"]
    await connection.execute("update pushq.supervisors set tasks = '{echo}'")
    await connection.execute("select pushq.pause('default')")
    sentence, detail = (await why(connection, job))["paused"]
    assert sentence.startswith("queue 'default' is paused since ")
    assert detail["by"]
    await connection.execute("select pushq.resume('default')")
    await connection.execute("update pushq.jobs set run_at = now() + interval '1 hour' where id = $1", job)
    assert list(await why(connection, job)) == ["later"]
    await connection.execute("update pushq.jobs set failures = 1, error = 'ValueError: no' where id = $1", job)
    assert "ValueError: no" in (await why(connection, job))["backoff"][0]


async def test_what_a_job_lacks_is_told_with_who_holds_it(connection: Connection) -> None:
    await supervisor(connection, "echo")
    [first, second] = await insert(connection, "echo", 2, needs=["gpu"])
    token = await connection.fetchval("select pushq.take($1, 'bert')", first)
    assert token
    sentence, detail = (await why(connection, second))["needs"]
    assert sentence == f"needs 1 of 'gpu', of which 0 of 1 is free; 1 job holds the rest, the first being {first}"
    assert detail == {"name": "gpu", "units": 1, "capacity": 1, "free": 0, "held_by": [str(first)], "holders": 1}
    assert await connection.fetchval("select pushq.take($1, 'bert')", second) is None
    await connection.execute("select pushq.finish($1, $2, 'succeeded')", first, token)
    assert await why(connection, second) == {}


async def test_a_capacity_below_what_a_job_needs_is_told(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('gpu', 4)")
    [job] = await insert(connection, "echo", needs={"gpu": 4})
    await connection.execute("select pushq.limit('gpu', 2)")
    assert (await why(connection, job))["needs"][0] == "needs 4 of 'gpu', whose capacity is 2"


async def test_the_next_token_of_a_rate_is_told(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('api', rate => 0.1)")
    [first, second] = await insert(connection, "echo", 2, needs=["api"])
    token = await connection.fetchval("select pushq.take($1, 'bert')", first)
    await connection.execute("select pushq.finish($1, $2, 'succeeded')", first, token)
    assert list(await why(connection, second)) == ["rate"]


async def test_the_position_is_the_rank_by_priority_and_time_whatever_the_job_needs(connection: Connection) -> None:
    chance = random.Random(7)

    for _ in range(120):
        await insert(
            connection,
            chance.choice(["echo", "mail", "note"]),
            priority=chance.choice([-5, -1, 0, 0, 0, 2, 7]),
            needs=chance.choice([None, ["gpu"], {"cpu": 1}]),
            crashes=chance.choice([0, 0, 0, 2]),
        )
    ranks = await connection.fetch(
        "select id, row_number() over (order by priority, run_at, id) - 1 as rank "
        "from pushq.jobs where status = 'queued'"
    )
    for row in ranks:
        assert await connection.fetchval("select pushq.position($1)", row["id"]) == row["rank"]
