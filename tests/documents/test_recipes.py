"""The recipes' SQL does what the recipes say."""

from __future__ import annotations

from tests.support.jobs import Connection, count, insert
from tests.support.pages import blocks
from tests.support.supervisors import ROOT

JOB = "01900000-0000-7000-8000-000000000000"
FAILED = """
with ended as (select pushq.end_jobs(array[id], array[token], null, null, '{failed}', '{no}', null, null)
    from pushq.jobs where status = 'running')
select count(*) from ended
"""


async def test_the_recipes_sql_does_what_it_says(connection: Connection) -> None:
    text = (ROOT / "docs" / "how-to" / "recipes.md").read_text()
    urgent, sooner, purge, retry, cron, chain, concurrent, paced = blocks("sql", text)

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

    await connection.execute(concurrent)
    await insert(connection, "report.build", queue="reports")
    assert await count(connection, "needs = '{\"queue:reports\": 1}'") == 1
    await connection.execute(paced)
    assert await connection.fetchval("select rate from pushq.rules('{mail.api}')") == 10
