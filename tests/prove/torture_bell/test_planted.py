"""A bug that is planted is found."""

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


def test_a_planted_bug_is_found() -> None:
    code, report = torture("--minutes", "3", "--planted", "shuts-without-ringing")

    assert code == 1
    assert report["first_found_after"] is not None
