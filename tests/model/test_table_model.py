"""The table does as its model says, and a claim reads what it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)

from pushq.database.session import Session
from pushq.database.statements import statement
from tests.model.machine import HISTORIES, TableMachine
from tests.model.real_table import RealTable
from tests.support.jobs import Connection


@pytest.mark.timeout(120)
def test_the_table_and_its_model_agree_after_every_step(table: RealTable) -> None:
    run_state_machine_as_test(TableMachine, settings=settings(HISTORIES, max_examples=15))

    assert table.histories == 15


# The plan -----------------------------------------------------------------------------------------------------


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


@pytest.mark.parametrize("is_analysed", [True, False], ids=["analysed", "never analysed"])
async def test_a_claim_finds_its_jobs_by_the_claimable_index_and_reads_nothing_else(
    database_url: str, connection: Connection, is_analysed: bool
) -> None:
    """As the planner is told by pushq, and also left to itself."""
    await connection.execute("alter table pushq.jobs_unfinished set (autovacuum_enabled = off)")
    await connection.execute(
        """
        insert into pushq.jobs (task, queue, priority, run_at, crashes)
        select
            'mail', (array['default', 'bulk'])[1 + n % 2], n % 3, now() + (n % 5 - 3) * interval '1 hour', n % 40 / 38
        from generate_series(1, 4000) as n
        """
    )
    if is_analysed:
        await connection.execute("analyze pushq.jobs_unfinished")
    known = "select count(*) from pg_stats where schemaname = 'pushq' and tablename = 'jobs_unfinished'"
    assert bool(await connection.fetchval(known)) == is_analysed
    explain = "explain (format json) " + statement("claim")
    arguments = ["default", "bulk"], ["mail"], "anna", 1, uuid4(), 10, None, None
    ours = Session(database_url, "test")
    plans = [await ours.fetch(explain, *arguments), await connection.fetch(explain, *arguments)]
    await ours.close()

    for ((plan,),) in plans:
        found = list(nodes(json.loads(plan)[0]["Plan"]))
        indexes = {node["Index Name"] for node in found if node["Node Type"].startswith(("Index", "Bitmap Index"))}
        assert "Seq Scan" not in {node["Node Type"] for node in found if node.get("Relation Name") == "jobs_unfinished"}
        assert {name for name in indexes if name.startswith("jobs")} == {
            "jobs_unfinished_claimable",
            "jobs_unfinished_id_is_unique",
        }


async def looks_of_a_claim(connection: Connection, url: str, queues: Sequence[str], limit: int) -> int:
    """How often it descends into an index."""
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('anna', 'here', 1, '1 hour', now() + interval '1 hour')"
    )
    ours = Session(url, "test")
    explain = "explain (analyze, format json) " + statement("claim")
    ((plan,),) = await ours.fetch(explain, queues, ["mail"], "anna", 1, uuid4(), limit, None, None)
    await ours.close()
    return sum(node["Actual Loops"] for node in nodes(json.loads(plan)[0]["Plan"]) if "Index Name" in node)


async def test_a_claim_looks_at_no_more_priorities_than_it_finds_jobs(
    database_url: str, connection: Connection
) -> None:
    """A producer may insert one of each of 65,536, in every queue."""
    await connection.execute(
        "insert into pushq.jobs (task, queue, priority) select 'mail', queue, priority "
        "from generate_series(-10000, 9999) as priority cross join unnest('{a,b}'::text[]) as queue"
    )

    assert await looks_of_a_claim(connection, database_url, ["a", "b"], 10) < 100
    taken = "select queue, priority from pushq.jobs where status = 'running' order by priority, queue"
    assert [tuple(row) for row in await connection.fetch(taken)] == [
        (queue, priority) for priority in range(-10000, -9995) for queue in "ab"
    ]


async def test_a_claim_looks_at_a_priority_only_in_the_queues_that_have_it(
    database_url: str, connection: Connection
) -> None:
    """Fifty queues with ten priorities of their own each, and nothing due."""
    await connection.execute(
        "insert into pushq.jobs (task, queue, priority, run_at) "
        "select 'mail', 'q' || n / 10, n, now() + interval '1 hour' from generate_series(0, 499) as n"
    )

    assert await looks_of_a_claim(connection, database_url, [f"q{number}" for number in range(50)], 10) < 1200


async def test_no_job_of_a_dead_pool_is_compared_with_all_the_others(database_url: str, connection: Connection) -> None:
    """Ten thousand jobs are ten thousand comparisons, and not their square."""
    await connection.execute(
        "insert into pushq.jobs (task, status, supervisor, pool, token, started_at) "
        "select 'mail', 'running', 'anna', 1, gen_random_uuid(), now() from generate_series(1, 2000)"
    )
    ours = Session(database_url, "test")
    explain = "explain (analyze, format json) " + statement("requeue")
    ((plan,),) = await ours.fetch(explain, ["anna"], 1, True, False, None)
    await ours.close()

    lists = [node.get("Filter", "") for node in nodes(json.loads(plan)[0]["Plan"]) if "ANY" in node.get("Filter", "")]
    assert not any("token" in condition or "id" in condition for condition in lists), lists
