"""Anybody may listen: a notification tells the name of a queue, or nothing, and nothing of a job."""

from __future__ import annotations

import re

import asyncpg

from tests.security.conftest import UrlAs
from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

LISTENS = """
select query from pg_stat_activity
where datname = current_database() and query like 'LISTEN "pushq!_canary!_%' escape '!'
"""


async def test_a_canary_carries_nothing(database_url: str, connection: Connection, url_as: UrlAs) -> None:
    """Its channel is named at random. The owner of the database sees the name, and here tells a bystander."""
    heard: list[str] = []
    bystander = await asyncpg.connect(url_as("bystander"))
    with supervising(database_url, tasks="tests.prove.faults.handlers:tasks", TEST_CANARY="0.2,3"):
        (listen,) = [row["query"] for row in await connection.fetch(LISTENS)]
        channel = listen.split('"')[1]
        await bystander.add_listener(channel, lambda *arguments: heard.append(arguments[3]))
        await finished(connection, *await insert(connection, "echo", payload={"card": "4111"}))

        async def are_heard() -> bool:
            return len(heard) > 3

        await eventually(are_heard)
    await bystander.close()

    assert set(heard) == {""}


async def test_a_bystander_hears_that_a_job_was_cancelled_and_not_which(
    database_url: str, connection: Connection, url_as: UrlAs
) -> None:
    heard: list[str] = []
    bystander = await asyncpg.connect(url_as("bystander"))
    await bystander.add_listener("pushq_cancel", lambda *arguments: heard.append(arguments[3]))
    with supervising(database_url):
        (job,) = await insert(connection, "sleep", payload={"seconds": 60})
        await has_count(connection, 1, "status = 'running'")
        await connection.execute("select pushq.cancel($1)", job)

        async def is_heard() -> bool:
            return bool(heard)

        await eventually(is_heard)
    await bystander.close()

    assert [re.fullmatch("[0-9a-f]{64}", one) is not None for one in heard] == [True]


async def test_a_bystander_who_listens_hears_names_of_queues_and_no_data(
    database_url: str, connection: Connection, url_as: UrlAs
) -> None:
    heard: list[tuple[str, str]] = []
    bystander = await asyncpg.connect(url_as("bystander"))
    await bystander.add_listener("pushq", lambda _, __, channel, payload: heard.append((channel, payload)))
    with supervising(database_url, "--queue", "default", "--queue", "mail"):
        for queue in ("default", "mail"):
            for number in range(3):
                jobs = await insert(
                    connection,
                    "echo",
                    queue=queue,
                    payload={"card": "4111"},
                    tenant_id="acme",
                    unique_key=f"key {number}",
                )
                await finished(connection, *jobs)

        async def are_heard() -> bool:
            return {"default", "mail"} <= {payload for _, payload in heard}

        await eventually(are_heard)
    await bystander.close()

    assert {payload for _, payload in heard} <= {"", "default", "mail"}
