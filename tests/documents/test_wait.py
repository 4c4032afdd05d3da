"""docs/how-to/wait.md: what the page shows runs as it stands."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.jobs import Connection, insert
from tests.support.node import run_node
from tests.support.pages import blocks, section
from tests.support.supervisors import supervising

PAGE = "how-to/wait.md"
TASKS = """
from pushq import Tasks

tasks = Tasks()


@tasks.register("report.build")
async def build(user_id: int) -> dict[str, int]:
    return {"of": user_id}
"""


async def test_in_python(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reports.py").write_text(TASKS)
    (code,) = blocks("python", section(PAGE, "In Python"))
    names: dict[str, object] = {}
    exec(code, names)
    monkeypatch.setenv("PUSHQ_DATABASE_URL", database_url)
    with supervising(database_url, tasks="reports:tasks", directory=str(tmp_path)):
        assert await names["report"](7) == {"of": 7}  # type: ignore[operator]


async def test_in_sql(connection: Connection, database_url: str) -> None:
    listens, asks = blocks("sql", section(PAGE, "In any language"))
    listener = await asyncpg.connect(database_url)
    heard = asyncio.Queue[str]()
    channel = listens.split()[1].removesuffix(";")
    await listener.add_listener(channel, lambda *arguments: heard.put_nowait(arguments[3]))
    job = await connection.fetchval(listens.partition(";")[2].partition("--")[0])
    await connection.execute("select pushq.cancel($1)", job)
    assert await asyncio.wait_for(heard.get(), 5) == f"{job} cancelled"
    (known,) = await insert(connection, "report.build")
    watch, look = asks.replace("01900000-0000-7000-8000-000000000000", str(known)).strip().split(";\n")
    assert await connection.fetchval(watch)
    assert await connection.fetchval(look.removesuffix(";")) == "queued"
    await listener.close()


async def test_in_psycopg(database_url: str, tmp_path: Path) -> None:
    (program,) = blocks("python", section(PAGE, "In any language"))
    (tmp_path / "reports.py").write_text(TASKS)
    names: dict[str, Any] = {}
    exec(program, names)
    with supervising(database_url, tasks="reports:tasks", directory=str(tmp_path)):
        assert await asyncio.to_thread(names["report"], database_url, 42) == ("succeeded", {"of": 42})


async def test_in_psql(database_url: str, tmp_path: Path, server_bin_directory: Path) -> None:
    (tmp_path / "reports.py").write_text(TASKS)
    channel = f"pushq_{uuid4().hex}"
    with supervising(database_url, tasks="reports:tasks", directory=str(tmp_path)):
        psql = await asyncio.create_subprocess_exec(
            server_bin_directory / "psql", "--no-psqlrc", database_url,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert psql.stdin
        assert psql.stdout
        psql.stdin.write(
            f"listen {channel};\ninsert into pushq.jobs (task, payload, waiters) "
            f"values ('report.build', '{{\"user_id\": 7}}', '{{{channel}}}');\n".encode()
        )
        said = ""
        async with asyncio.timeout(20):
            while "Asynchronous notification" not in said:  # psql tells with the next command
                psql.stdin.write(b"select pg_sleep(0.05);\n")
                said = (await psql.stdout.readline()).decode()
        psql.stdin.close()
        await psql.wait()
    assert f'"{channel}" with payload' in said
    assert ' succeeded"' in said


async def test_in_node(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "reports.py").write_text(TASKS)
    (program,) = blocks("js", section(PAGE, "In any language"))
    with supervising(database_url, tasks="reports:tasks", directory=str(tmp_path)):
        said = await asyncio.to_thread(run_node, program, PUSHQ_DATABASE_URL=database_url)
    assert json.loads(said) == {"status": "succeeded", "result": {"of": 42}, "error": None}
