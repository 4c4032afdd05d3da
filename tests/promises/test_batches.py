"""A handler that takes batches: fences, retries and crashes are each job's own."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from pushq import Queue
from tests.support.handlers import in_batches
from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising


async def test_a_backlog_is_run_in_full_batches_each_by_one_worker(database_url: str, connection: Connection) -> None:
    jobs = await insert(connection, "in.batches", 3000)
    with supervising(database_url, "--concurrency", "4") as supervisor:
        rows = await finished(connection, *jobs)
        assert supervisor.stop() == 0

    sizes = Counter(json.loads(row["result"]) for row in rows)
    assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 1)}
    assert set(sizes) == {100}, sizes  # from the first on


async def test_each_job_of_a_batch_ends_as_its_item_says(database_url: str, connection: Connection) -> None:
    made = [in_batches.job(how=how) for how in ("fail", "cancel", "snooze", "do")]
    made.append(replace(in_batches.job(), payload={"how": 7}))
    with supervising(database_url):
        rows = await finished(connection, *await Queue().insert_many(made, connection=connection))

    assert [(row["status"], row["attempt"], row["failures"]) for row in rows] == [
        ("succeeded", 2, 1),
        ("cancelled", 1, 0),
        ("succeeded", 2, 0),
        ("succeeded", 1, 0),
        ("failed", 1, 1),
    ]
    assert rows[4]["error"].startswith("PayloadError")


async def test_a_job_that_kills_its_process_ends_alone(database_url: str, connection: Connection) -> None:
    with supervising(database_url) as supervisor:
        (killer,) = await insert(connection, "in.batches", payload={"how": "die"})
        others = await insert(connection, "in.batches", 5)
        (dead, *lived) = await finished(connection, killer, *others, within=30)
        assert supervisor.process.poll() is None

    assert (dead["status"], dead["crashes"]) == ("failed", 3)
    assert {row["status"] for row in lived} == {"succeeded"}
    assert max(row["crashes"] for row in lived) <= 2


async def test_jobs_beside_batches_are_claimed_when_a_worker_is_free_and_not_before(
    database_url: str, connection: Connection
) -> None:
    """No job is given back, though a claim brings hundreds for the batches: each has one attempt."""
    batches = await insert(connection, "in.batches", 1000, payload={"seconds": "0.15"})
    others = await insert(connection, "sleep", 10, payload={"seconds": 0.4})
    with supervising(database_url, "--concurrency", "2"):
        rows = await finished(connection, *batches, *others)

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
