"""The recipes' SQL does what the recipes say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg

from pushq import Resource, Tasks, injected
from pushq.testing import run
from tests.support.jobs import Connection, count, insert
from tests.support.pages import blocks, section
from tests.support.supervisors import ROOT

PAGE = "how-to/recipes.md"

JOB = "01900000-0000-7000-8000-000000000000"
FAILED = """
with ended as (select pushq.end_jobs(array[id], array[token], null, null, '{failed}', '{no}', null, null)
    from pushq.jobs where status = 'running')
select count(*) from ended
"""


async def test_the_recipes_sql_does_what_it_says(connection: Connection) -> None:
    text = (ROOT / "docs" / "how-to" / "recipes.md").read_text()
    urgent, sooner, purge, retry, cron, chain, *_ = blocks("sql", text)

    await insert(connection, "mail.order", correlation_id="order 66")
    await connection.execute(urgent)
    assert await count(connection, "priority = -10") == 1

    await connection.execute(
        "insert into pushq.jobs (task, queue, run_at) values ('mail.welcome', 'mail', now() + interval '1 day')"
    )
    await connection.execute(sooner)
    assert await count(connection, "task = 'mail.welcome' and run_at <= now()") == 1

    await connection.execute(
        "update pushq.jobs set status = 'running', token = gen_random_uuid(), started_at = now(), supervisor = 'me', "
        "pool = 1, attempt = 1 where task = 'mail.welcome'"
    )
    await connection.execute(FAILED)
    assert await count(connection, "status = 'failed'") == 1
    assert await connection.fetchval(retry) == 1
    assert await count(connection, "status = 'queued' and task = 'mail.welcome'") == 1

    for once in (cron, chain):
        before = await count(connection)
        await connection.execute(once)
        await connection.execute(once)
        assert await count(connection) == before + 1

    await connection.execute(purge)


async def test_calls_begin_a_tenth_of_a_second_apart(database_url: str, connection: Connection) -> None:
    begun: dict[int, float] = {}

    async def call_the_api(user_id: int) -> None:
        begun[user_id] = asyncio.get_running_loop().time()

    names = named("Limit a rate", call_the_api=call_the_api)
    await connection.execute(*blocks("sql", section(PAGE, "Limit a rate")))
    async with asyncpg.create_pool(database_url, min_size=3) as pool, asyncio.TaskGroup() as group:
        for user_id in range(3):
            group.create_task(run(names["tasks"], names["send"].job(user_id), resources=pool))
    assert begun.keys() == {0, 1, 2}
    assert max(begun.values()) - min(begun.values()) >= 0.15


def named(heading: str, **given: Any) -> dict[str, Any]:
    """What a recipe's Python defines. given: what the recipe takes for granted."""
    tasks = Tasks()

    @tasks.lifespan
    async def database() -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
        raise AssertionError("the test gives the pool")
        yield

    imported = {"asyncio": asyncio, "asyncpg": asyncpg, "UUID": UUID, "Resource": Resource, "injected": injected}
    names = imported | {"tasks": tasks} | given
    (recipe,) = blocks("python", section(PAGE, heading))
    exec(recipe, names)
    return names
