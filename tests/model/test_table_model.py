"""The table does as its model says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

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

    assert table.histories >= 15


# The plan -----------------------------------------------------------------------------------------------------


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


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
