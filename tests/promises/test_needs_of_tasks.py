"""What a task needs: registered with the task, and then needed by all its jobs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pushq.database.session import Session
from pushq.pool.store import Claimant, Store
from tests.support.jobs import Connection, finished, insert, row_of
from tests.support.notifications import hearing
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually

APP = """
from asyncio import sleep
from pushq import Tasks

tasks = Tasks()


@tasks.register("draw"{options})
async def draw{arguments}:
    await sleep(0.02)
"""


@pytest.fixture
def supervise(database_url: str, tmp_path: Path) -> Any:
    """Starts a supervisor whose task `draw` has these options."""

    def start(stack: ExitStack, version: str, options: str = "", arguments: str = "()") -> RunningSupervisor:
        directory = tmp_path / version
        directory.mkdir()
        (directory / "app.py").write_text(APP.format(options=options, arguments=arguments))
        return stack.enter_context(
            supervising(database_url, tasks="app:tasks", directory=str(directory), POLL_INTERVAL="0")
        )

    return start


async def needs_of_draw(connection: Connection) -> Any:
    return json.loads(await connection.fetchval("select needs from pushq.tasks where name = 'draw'") or "null")


async def test_what_a_task_needs_is_there_once_its_supervisor_is_ready_and_changes_with_the_registration(
    connection: Connection, supervise: Any
) -> None:
    versions = {', needs={"gpu": 2}': {"gpu": 2}, ', needs=["gpu"]': {"gpu": 1}, "": None}
    for number, (options, expected) in enumerate(versions.items()):
        with ExitStack() as stack:
            supervise(stack, str(number), options)
            assert await needs_of_draw(connection) == expected


@pytest.mark.parametrize(("options", "arguments"), [(', needs=["gpu"]', "()"), (', needs=["gpu"], batch=3', "(jobs)")])
async def test_the_jobs_of_a_task_that_needs_one_unit_run_one_after_the_other(
    connection: Connection, supervise: Any, options: str, arguments: str
) -> None:
    with ExitStack() as stack:
        for number in range(2):
            supervise(stack, str(number), options, arguments)
        rows = await finished(connection, *await insert(connection, "draw", 20))

    assert {json.loads(row["needs"])["gpu"] for row in rows} == {1}
    assert {row["status"] for row in rows} == {"succeeded"}
    rows.sort(key=lambda row: row["started_at"])
    assert all(first["finished_at"] <= then["started_at"] for first, then in pairwise(rows))


async def test_of_two_versions_that_live_the_last_that_began_counts_and_no_heartbeat_writes_again(
    connection: Connection, supervise: Any
) -> None:
    async def heartbeats() -> int:
        return int(await connection.fetchval("select min(heartbeat) from pushq.supervisors where pid > 0"))

    with ExitStack() as stack:
        supervise(stack, "old", ', needs=["gpu"]')
        supervise(stack, "new", ', needs=["disk"]')
        assert await needs_of_draw(connection) == {"disk": 1}
        written = await connection.fetchval("select xmin::text || ctid::text from pushq.tasks where name = 'draw'")
        seen = await heartbeats()

        async def have_beaten() -> bool:
            return await heartbeats() >= seen + 3

        await eventually(have_beaten)
        again = await connection.fetchval("select xmin::text || ctid::text from pushq.tasks where name = 'draw'")
    assert again == written


async def test_what_tasks_need_rings_if_it_changes_and_not_when_a_pool_registers_the_same(database_url: str) -> None:
    claimant = Claimant("living", 1, ("default",), ("draw", "write"))
    versions: tuple[dict[str, dict[str, int]], ...] = ({}, {"draw": {"gpu": 1}}, {"draw": {"gpu": 1}}, {}, {})
    session = Session(database_url, "test")
    async with hearing(database_url) as ear:
        heard = []
        for needs in versions:
            await Store(session).register(claimant, needs)
            heard.append(await ear.take())
    await session.close()

    assert heard == [[], [""], [], [""], []]


async def test_tasks_without_needs_leave_every_insert_as_it_was(connection: Connection, supervise: Any) -> None:
    with ExitStack() as stack:
        supervise(stack, "plain")
        assert await connection.fetchval("select pg_sequence_last_value('pushq.needs_stamped')") == 0


async def test_a_job_says_for_itself_how_many_units_it_needs_of_what_its_task_needs(connection: Connection) -> None:
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 4)")
    await connection.execute("insert into pushq.tasks (name, needs) values ('draw', '{\"gpu\": 2}')")
    [plain] = await insert(connection, "draw")
    [more] = await insert(connection, "draw", needs={"gpu": 4, "disk": 1})

    assert json.loads((await row_of(connection, plain))["needs"]) == {"gpu": 2}
    assert json.loads((await row_of(connection, more))["needs"]) == {"gpu": 4, "disk": 1}


async def test_jobs_that_were_queued_before_their_task_needed_anything_get_its_needs(connection: Connection) -> None:
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 4)")
    [more] = await insert(connection, "draw", needs={"gpu": 4})
    before = await insert(connection, "draw", 5, tenant_id="acme")
    [other] = await insert(connection, "write")
    await connection.execute("insert into pushq.tasks (name, needs) values ('draw', '[\"gpu\"]'), ('write', null)")

    assert [await stamp(connection) for _ in range(2)] == [5, 0]
    rows = [await row_of(connection, job) for job in (*before, more, other)]
    assert [json.loads(row["needs"] or "{}") for row in rows] == [{"gpu": 1}] * 5 + [{"gpu": 4}, {}]
    assert [row["apart"] for row in rows] == ["lane"] * 6 + [None]


async def test_all_tasks_are_stamped_at_once_and_without_a_rule_none(connection: Connection) -> None:
    jobs = [*await insert(connection, "draw"), *await insert(connection, "write"), *await insert(connection, "rest")]
    assert await stamp(connection) == 0
    await connection.execute(
        "insert into pushq.tasks (name, needs) values ('draw', '[\"gpu\"]'), ('write', '[\"disk\"]')"
    )

    assert [await stamp(connection) for _ in range(2)] == [2, 0]
    rows = [await row_of(connection, job) for job in jobs]
    assert [json.loads(row["needs"] or "{}") for row in rows] == [{"gpu": 1}, {"disk": 1}, {}]


async def test_jobs_are_stamped_although_they_need_more_than_there_is_by_now(connection: Connection) -> None:
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 4)")
    [job] = await insert(connection, "draw", needs={"gpu": 4})
    await connection.execute("update pushq.resources set capacity = 1 where name = 'gpu'")
    await connection.execute("insert into pushq.tasks (name, needs) values ('draw', '[\"disk\"]')")

    assert await stamp(connection) == 1
    assert json.loads((await row_of(connection, job))["needs"]) == {"gpu": 4, "disk": 1}


async def stamp(connection: Connection) -> int:
    return int(await connection.fetchval("select stamped from pushq.stamp()"))


@pytest.mark.parametrize("needs", ["5", '"gpu"', '{"gpu": 0}', '{"gpu": "1"}', '["key:x"]', "null", '["gpu", "gpu"]'])
async def test_what_a_job_cannot_need_no_task_needs(connection: Connection, needs: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await connection.execute("insert into pushq.tasks (name, needs) values ('draw', $1)", needs)

    assert refused.value.constraint_name == "tasks_needs_are_as_those_of_jobs"
