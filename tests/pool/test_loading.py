"""From MODULE:TASKS to a registry."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

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
