"""The torture itself: it passes a sound pushq for a few seconds, and finds a bug that was planted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.supervisors import ROOT, environment

pytestmark = pytest.mark.timeout(240)  # a server and three supervisors have to start beside everything else


def torture(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Its exit code, and its report."""
    command = [sys.executable, "-m", "tests.torture_bell", "--json", "--seed", "7", *arguments]
    ended = subprocess.run(command, env=environment(None), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_nothing_is_lost_and_nothing_that_was_rolled_back_runs() -> None:
    _, report = torture("--minutes", "0.05")

    # How soon is a matter of the machine, and of `make torture-bell`.
    assert (report["lost"], report["ghosts"], report["unrecovered"]) == ([], [], [])
    assert [late for late in report["late"] if late["waited"] > 2] == []
    assert report["ended"] == {"succeeded": sum(report["inserted"].values())}
    assert report["rolled_back"] > 0
    assert report["transitions"]["gate opened"] > 0
