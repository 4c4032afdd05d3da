"""The house: imports go down only, and each part knows what it may."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pushq"

LAYERS = (
    ("errors", "settings", "backoff", "place", "progress", "recalled", "roundtrip", "storable", "trace", "written"),
    ("artifacts", "needs", "schedules", "transactions"),
    ("local",),
    ("lifespan", "job", "middleware", "handler"),
    ("payload", "batch", "once", "retries"),
    ("current", "task", "outcome"),
    ("events", "spans"),
    ("database",),
    ("producers", "reading", "waiting"),
    ("queue",),
    ("desk",),
    ("contrib",),
    ("sweeper",),
    ("exporter",),
    ("link",),
    ("webhooks",),
    ("pool", "pool_process"),
    ("supervisor",),
    ("testing",),
    ("demo",),
    ("bench",),
    ("cli",),
    ("__main__", "__init__"),
)
"""From the ground up: a layer imports from those before it, and from itself."""


def imports_of(path: Path) -> set[str]:
    """The pushq modules that a file imports at run time, without the package's name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pushq."):
            found.add(node.module.removeprefix("pushq."))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("pushq.") for alias in node.names if alias.name.startswith("pushq.")}
    return found


def level(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if module.split(".", maxsplit=1)[0] in layer)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


ELSEWHERE = PACKAGE / "bench" / "peers" / "adapters"  # runs in the environments of other queues
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != ELSEWHERE)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down_only(path: Path) -> None:
    module = module_of(path)

    assert {other for other in imports_of(path) if level(other) > level(module)} == set()


def test_only_the_database_imports_asyncpg() -> None:
    importers = {module_of(path) for path in FILES if "asyncpg" in _top_level_names(path)}

    # The benchmark compares pushq with a bare driver. Type checkers import the type of a job's connection.
    assert {module for module in importers if not module.startswith("database.")} == {"bench.connection", "job"}
    assert "asyncpg" not in _imported_by("pushq.queue")


def test_whatever_is_imported_is_declared() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["embedded"], *extras["django"], "asgiref, which is Django's own half"]
    declared += [one.replace("opentelemetry-api", "opentelemetry") for one in extras["otel"]]
    names = {re.split(r"[^\w-]", one)[0].replace("-", "_") for one in declared}
    imported = {name for path in FILES for name in _top_level_names(path)} - sys.stdlib_module_names

    # pydantic_core is pydantic's own half, of exactly one version. The plugin is loaded by pytest. typing_extensions is
    # imported by type checkers alone, which bring it.
    assert imported - names - {"", "pushq", "pydantic_core", "pytest", "typing_extensions"} == set()
    assert {module_of(path) for path in FILES if "pytest" in _top_level_names(path)} == {"testing.plugin"}


def test_only_its_own_folder_imports_django() -> None:
    importers = {module_of(path) for path in FILES if {"django", "django_tasks", "asgiref"} & _top_level_names(path)}

    assert {module for module in importers if not module.startswith("contrib.django")} == set()


def test_only_its_own_folder_imports_opentelemetry() -> None:
    importers = {module_of(path) for path in FILES if "opentelemetry" in _top_level_names(path)}

    measuring = {"bench.deliver.otel"}
    assert {module for module in importers - measuring if not module.startswith("contrib.otel")} == set()


def test_no_file_imports_the_drivers_of_others() -> None:
    assert {module_of(path) for path in FILES if {"psycopg", "sqlalchemy"} & _top_level_names(path)} == set()


def test_the_pool_s_parts_never_import_one_another() -> None:
    parts = {"claimer", "worker", "finisher", "listener"}
    for part in parts:
        others = {f"pool.{other}" for other in parts - {part}}
        assert imports_of(PACKAGE / "pool" / f"{part}.py") & others == set()


def test_the_supervisor_never_imports_the_user_s_code() -> None:
    for path in (PACKAGE / "supervisor").glob("*.py"):
        assert {name for name in imports_of(path) if name == "task" or name.split(".")[0] == "pool"} == set()


# Imports are most of what it costs to start one.
SPARED = {
    "pushq.queue": {"anyio", "asyncpg", "click", "opentelemetry", "pydantic", "pushq.database.speaker"},
    "pushq.task": {"anyio", "asyncpg", "click", "pydantic_settings", "pushq.database.speaker"},
    "pushq.pool_process": {
        "click",
        "opentelemetry",
        "prometheus_client",
        "pydantic_settings",
        "starlette",
        "uvicorn",
        "pushq.producers",
    },
    "pushq.cli.supervise": {"prometheus_client", "starlette", "uvicorn", "pushq.demo", "pushq.pool", "pushq.task"},
}


@pytest.mark.parametrize("module", SPARED)
def test_a_process_does_not_import_what_it_does_not_use(module: str) -> None:
    assert SPARED[module] & _imported_by(module) == set()


def _imported_by(module: str) -> set[str]:
    program = f"import sys, {module}; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, check=True)
    return set(imported.stdout.decode().split())


def test_every_task_of_the_event_loop_has_a_parent() -> None:
    """Attempts have their workers, which wait for them. What an app waits for outlives the app's own tasks."""
    for path in FILES:
        text = path.read_text().replace("create_task_group(", "")
        made = [way for way in ("create_task(", "ensure_future(", "asyncio.Task(") if way in text]
        allowed = {"pool.loop": ["asyncio.Task("], "waiting": ["create_task("], "waiting.runs": ["create_task("]}
        assert made == allowed.get(module_of(path), []), path


def _top_level_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
