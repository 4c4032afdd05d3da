"""An INSERT is not code execution: rows name tasks, which are found in a registry; nothing is imported or unpickled."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.jobs import Connection, count, finished, insert
from tests.support.supervisors import supervising

SOURCES = sorted((Path(__file__).parents[2] / "pushq").rglob("*.py"))
HOSTILE = [
    "os.system",
    "subprocess:getoutput",
    "builtins.eval",
    "__import__",
    "tests.security.audited:tasks",
    "echo.__init__",
]
FORBIDDEN = {"pickle", "marshal", "shelve", "yaml", "dill", "cloudpickle"}


async def test_rows_that_name_code_run_and_import_nothing(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    events = tmp_path / "events"
    with supervising(database_url, tasks="tests.security.audited:tasks", TEST_AUDIT=str(events)):
        (first,) = await insert(connection, "echo")
        await finished(connection, first)
        before = events.read_text()
        for task in HOSTILE:
            await insert(connection, task, payload={"command": "touch /tmp/hacked", "name": "os"})
        keys = ["__class__", "__globals__", "self", "cls", "__import__('os')", "args"]
        jobs = [job for key in keys for job in await insert(connection, "echo", payload={key: "os.system('true')"})]
        ended = await finished(connection, *jobs)
        after = events.read_text()

    assert {row["status"] for row in ended} == {"succeeded"}
    assert after == before
    assert await count(connection, "status = 'queued'") == len(HOSTILE)


async def test_the_audit_would_notice_an_import(database_url: str, connection: Connection, tmp_path: Path) -> None:
    events = tmp_path / "events"
    with supervising(database_url, tasks="tests.security.audited:tasks", TEST_AUDIT=str(events)):
        await finished(connection, *await insert(connection, "import"))
    assert "import colorsys" in events.read_text()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parent)))
def test_nothing_is_unpickled_or_evaluated(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            assert not {name.name.partition(".")[0] for name in node.names} & FORBIDDEN
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in FORBIDDEN
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), ast.unparse(node)


# Names that come from our own code or from the catalogue, quoted there; nothing of a row or of a request.
REVIEWED = {"desk/__init__.py", "database/session.py", "database/migrate.py", "sweeper/store.py"}


@pytest.mark.parametrize(
    "source",
    [path for path in SOURCES if "bench" not in path.parts and "/".join(path.parts[-2:]) not in REVIEWED],
    ids=lambda path: str(path.relative_to(SOURCES[0].parent)),
)
def test_no_statement_is_put_together_from_values(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        if node.func.attr in ("fetch", "fetchval", "fetchrow", "execute"):
            assert not isinstance(node.args[0], ast.JoinedStr | ast.BinOp), ast.unparse(node)
