"""docs/how-to/wait.md: what the page shows runs as it stands."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

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


async def test_in_node(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "reports.py").write_text(TASKS)
    (program,) = blocks("js", section(PAGE, "In any language"))
    with supervising(database_url, tasks="reports:tasks", directory=str(tmp_path)):
        said = await asyncio.to_thread(run_node, program, PUSHQ_DATABASE_URL=database_url)
    assert json.loads(said) == {"status": "succeeded", "result": {"of": 42}, "error": None}
