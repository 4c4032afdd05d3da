"""Anybody may listen: a notification tells the name of a queue, and nothing of a job."""

from __future__ import annotations

import asyncpg

from tests.security.conftest import UrlAs
from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising
from tests.support.waiting import eventually


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
