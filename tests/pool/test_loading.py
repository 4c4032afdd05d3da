"""From MODULE:TASKS to a registry."""

from __future__ import annotations

import calendar
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushq.errors import PushqError, TasksError, TasksRaised
from pushq.pool.loading import load_tasks

APP = """
from pushq import Tasks

tasks = Tasks()


@tasks.register("ours")
async def ours() -> None: ...
"""


@pytest.mark.parametrize("name", ["gc", "queue", "select"])
def test_a_file_that_is_named_like_a_module_of_python_s_is_meant_by_who_names_it_and_by_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / f"{name}.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = sys.modules.get(name)

    assert load_tasks(f"{name}:tasks").names == ("ours",)

    assert sys.modules.get(name) is before
    assert sys.modules["gc"] is gc


MODULES = {
    "syntax": "number = 3\ndef broken(:",
    "nested": "import json\nimport syntax",
    "deep": "import middle",
    "middle": "\n\nimport innermost",
    "innermost": "import re\nre.compile('(')",
    "chained": "try:\n    import innermost\nexcept Exception as error:\n    raise LookupError('no pattern') from error",
    "importing": "import a_module_that_is_not_there",
    "exiting": "raise SystemExit(3)",
    "raising": "raise RuntimeError('first line\\nsecond')",
    "stopping": "raise RuntimeError('There is no service.')",
    "empty": "from pushq import Tasks\ntasks = Tasks()",
    "other": "from pushq import Tasks\nmy_tasks = Tasks()\nnumber = 3",
    "twice": "from pushq import Tasks\ntasks = Tasks()\nfor _ in 'ab':\n    @tasks.register('mail')\n    def f(): ...",
}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory that holds MODULES, which are forgotten afterwards."""
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("app", "does not name a registry of tasks; write MODULE:TASKS"),
        (
            "other.py:tasks",
            "'other.py:tasks' names a file, not a module; write MODULE:TASKS, for example 'other:tasks'.",
        ),
        ("./app/jobs:tasks", "names a file, not a module; write MODULE:TASKS, for example 'app.jobs:tasks'."),
        ("/srv/jobs.py:tasks", "names a file, not a module; write MODULE:TASKS, for example 'jobs:tasks'."),
        ("app.jobs", "does not name a registry of tasks; write MODULE:TASKS, for example 'app.jobs:tasks'."),
        ("nowhere.jobs:tasks", "There is no module 'nowhere' in "),
        ("syntax:tasks", "Module 'syntax' fails to import: SyntaxError: invalid syntax, at syntax.py:2."),
        ("nested:tasks", "SyntaxError: invalid syntax, at syntax.py:2, by way of nested.py:2."),
        ("importing:tasks", "fails to import: ModuleNotFoundError: No module named 'a_module_that_is_not_there', at "),
        ("calendar:tasks", f"Module 'calendar', which is {calendar.__file__}, has no 'tasks'"),
        ("empty:tasks", "'empty:tasks' has no tasks; put @tasks.register(NAME) above a function"),
        ("other:tasks", "Module 'other' has no 'tasks'; did you mean 'other:my_tasks'?"),
        ("other:number", "'other:number' is no registry of tasks but of type int; name a pushq.Tasks object."),
        ("twice:tasks", "Two tasks are named 'mail'"),
    ],
)
def test_a_registry_that_cannot_be_used_is_named(place: str, sentence: str) -> None:
    assert sentence in _refusal(place, TasksError)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("exiting:tasks", "Module 'exiting' fails to import: SystemExit: 3, at exiting.py:1."),
        ("stopping:tasks", "RuntimeError: There is no service, at stopping.py:1."),
        ("raising:tasks", "Module 'raising' fails to import: RuntimeError: first line, at raising.py:1."),
        ("deep:tasks", "at innermost.py:2, by way of middle.py:3, deep.py:1."),
        ("chained:tasks", "LookupError: no pattern, at chained.py:4; caused by error: missing ), unterminated"),
    ],
)
def test_a_module_that_raises_is_named_with_its_place_and_may_not_do_so_the_next_time(
    place: str, sentence: str
) -> None:
    assert sentence in _refusal(place, TasksRaised)


def _refusal(place: str, kind: type[PushqError]) -> str:
    """The sentence, on one line."""
    with pytest.raises(PushqError) as refused:
        load_tasks(place)
    assert type(refused.value) is kind
    said = str(refused.value)
    assert "\n" not in said
    return said
