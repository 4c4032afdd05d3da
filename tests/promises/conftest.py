"""What several promises need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def diary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tasks of tests/support/lifespans.py write what happens."""
    path = tmp_path / "diary"
    path.touch()
    monkeypatch.setenv("TEST_DIARY", str(path))
    return path
