"""docs/how-to/keys.md: what the page shows runs as it stands."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from typing import Any

from tests.support.jobs import Connection
from tests.support.node import run_node
from tests.support.pages import blocks, section
from tests.support.supervisors import ROOT

PAGE = "how-to/keys.md"
TEXT = (ROOT / "docs" / PAGE).read_text()


async def test_in_psql(connection: Connection) -> None:
    """Ids differ from those of the page: each id of the page stands for one of the database's."""
    ids: dict[str, str] = {}
    for statement, shown in (pair for block in blocks("console", TEXT) for pair in _dialogue(block)):
        asked = re.sub(r"0190[-0-9]{32}", lambda of_page: ids[of_page[0]], statement)
        rows = [[str(value) for value in row.values()] for row in await connection.fetch(asked)]
        assert len(rows) == len(shown)
        for row, of_page_row in zip(rows, shown, strict=True):
            for value, of_page in zip(row, of_page_row, strict=True):
                wanted = {"t": "True", "f": "False"}.get(of_page, of_page)
                assert value == (ids.setdefault(of_page, value) if of_page.startswith("0190") else wanted)
    assert len(set(ids.values())) == len(ids) == 3


def _dialogue(block: str) -> list[tuple[str, list[list[str]]]]:
    """The statements after psql's prompts, and the rows below each."""
    parts = re.findall(r"^app=> (.*?;)\n[^\n]*\n-[-+]*\n(.*?)(?:\n\n|\Z)", block, re.MULTILINE | re.DOTALL)
    return [
        (statement.replace("\napp->", "\n"), [[cell.strip() for cell in row.split("|")] for row in rows.splitlines()])
        for statement, rows in parts
    ]


async def test_in_sql(connection: Connection) -> None:
    replaced, looked, put_off = blocks("sql", TEXT)
    for statement in replaced.strip().split(";\n"):
        await connection.execute(statement)
    row = await connection.fetchrow("select payload, count(*) over () as jobs from pushq.jobs")
    assert row
    assert (row["payload"], row["jobs"]) == ('{"version": 2}', 1)

    begins, calls, looks, _ = looked.strip().splitlines()
    await connection.execute(begins)
    await connection.execute(calls)
    assert await connection.fetchval(looks) == "queued"
    await connection.execute("commit")

    for due in (10, 10):
        await connection.execute(put_off)
        look = "select run_at - now() from pushq.jobs where task = 'search.update'"
        assert timedelta(0) < await connection.fetchval(look) <= timedelta(seconds=due)


async def test_in_node(database_url: str) -> None:
    (program,) = blocks("js", section(PAGE, "Many at once"))
    said = json.loads(await asyncio.to_thread(run_node, program, PUSHQ_DATABASE_URL=database_url))

    assert [row["inserted"] for row in said] == [True, True, False]
    assert said[0]["id"] == said[2]["id"]


async def test_in_python(connection: Connection) -> None:
    (code,) = blocks("python", section(PAGE, "From Python"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert [await names["send_digest"](7, connection) for _ in range(2)] == [True, False]
    for _ in range(2):
        await names["page_changed"](7, connection)
    assert await connection.fetchval("select count(*) from pushq.jobs where task = 'search.update'") == 1
