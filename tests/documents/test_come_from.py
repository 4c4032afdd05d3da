"""Other queues move in as the page says, and no job is lost."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID
from zipfile import ZipFile

import pytest

from tests.support.jobs import Connection, finished
from tests.support.packages import home
from tests.support.pages import blocks, section
from tests.support.supervisors import supervising

PAGE = "how-to/come-from.md"
OLD, MOVE, BACK = blocks("sql", section(PAGE, "From a jobs table of your own"))


# From Celery ----------------------------------------------------------------------------------------------------------


async def test_the_body_of_a_celery_task_is_a_handler(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    handlers, _ = blocks("python", section(PAGE, "From Celery"))
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "jobs.py").write_text(handlers)

    with supervising(database_url, tasks="app.jobs:tasks", directory=str(tmp_path)):
        job = await connection.fetchval(
            "insert into pushq.jobs (task, queue, payload) values ('mail.welcome', 'mail', $1) returning id",
            '{"user_id": 7}',
        )
        (row,) = await finished(connection, job)
    assert row["result"] == '"welcomed 7"'


# From Procrastinate ---------------------------------------------------------------------------------------------------


async def test_procrastinate_s_waiting_jobs_move(connection: Connection) -> None:
    (move,) = blocks("sql", section(PAGE, "From Procrastinate"))
    await connection.execute(_schema_of_procrastinate())
    await connection.execute(
        """
        insert into procrastinate_jobs (queue_name, task_name, priority, queueing_lock, args, scheduled_at, status)
        values
            ('mail', 'mail.welcome', 10, 'welcome 7', '{"user_id": 7}', null, 'todo'),
            ('default', 'trial.ends', 2147483647, null, '{}', '2099-01-01', 'todo'),
            ('default', 'report', 0, null, '{}', null, 'succeeded'),
            ('default', 'periodic', 0, null, '{}', null, 'todo');
        insert into procrastinate_periodic_defers (task_name, job_id)
        select task_name, id from procrastinate_jobs where task_name = 'periodic';
        """
    )
    await connection.execute(move)

    moved = await connection.fetch(
        "select task, queue, payload, priority, run_at > now(), unique_key, correlation_id "
        "from pushq.jobs order by task"
    )
    assert [tuple(row) for row in moved] == [
        ("mail.welcome", "mail", '{"user_id": 7}', -10, False, "welcome 7", "procrastinate 1"),
        ("trial.ends", "default", "{}", -32768, True, None, "procrastinate 2"),
    ]
    left = await connection.fetch("select task_name from procrastinate_jobs order by id")
    assert [row["task_name"] for row in left] == ["report", "periodic"]


@cache
def _schema_of_procrastinate() -> str:
    kept = home("procrastinate.sql")
    if not kept.exists():
        with TemporaryDirectory(dir=kept.parent) as directory:
            fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", directory, "procrastinate<4"]
            subprocess.run(fetch, capture_output=True, check=True, timeout=50)
            (wheel,) = Path(directory).glob("*.whl")
            with ZipFile(wheel) as packed:
                kept.write_bytes(packed.read("procrastinate/sql/schema.sql"))
    return kept.read_text()


# From a table ---------------------------------------------------------------------------------------------------------

WAITS = "00000000-0000-4000-8000-000000000001"
WORKED_ON = "00000000-0000-4000-8000-000000000002"
DONE = "00000000-0000-4000-8000-000000000003"
LOOK = "select id::text, status, result, attempts from job_queue order by id"


@pytest.fixture
async def moved(connection: Connection) -> Connection:
    await connection.execute(OLD)
    await connection.execute(
        f"""
        insert into job_queue (id, type, status, payload, result) values
            ('{WAITS}', 'echo', 'pending', '{{"value": 1}}', null),
            ('{WORKED_ON}', 'fail', 'processing', '{{}}', null),
            ('{DONE}', 'echo', 'completed', '{{}}', '"done before"')
        """
    )
    await connection.execute(MOVE)
    return connection


async def test_the_old_statements_go_on_upon_the_view(moved: Connection, database_url: str) -> None:
    new = await moved.fetchval("insert into job_queue (type, payload) values ('echo', '{\"value\": 2}') returning id")
    assert await moved.fetchval("select count(*) from job_queue where status = 'pending'") == 3

    with supervising(database_url):
        await finished(moved, UUID(WAITS), UUID(WORKED_ON), new)
    assert [tuple(row) for row in await moved.fetch(LOOK)][:3] == [
        (WAITS, "completed", '{"value": 1}', 0),
        (WORKED_ON, "failed", None, 3),
        (DONE, "completed", '"done before"', 0),
    ]


async def test_the_table_comes_back_with_every_row(moved: Connection) -> None:
    new = await moved.fetchval("insert into job_queue (type) values ('echo') returning id::text")
    await moved.execute("select pushq.cancel($1)", WORKED_ON)
    await moved.execute(BACK)

    assert sorted(tuple(row) for row in await moved.fetch(LOOK)) == sorted(
        [
            (WAITS, "pending", None, 0),
            (WORKED_ON, "failed", None, 0),
            (DONE, "completed", '"done before"', 0),
            (new, "pending", None, 0),
        ]
    )
    assert await moved.fetchval("select count(*) from pushq.jobs where finished_on = 'infinity'") == 0
