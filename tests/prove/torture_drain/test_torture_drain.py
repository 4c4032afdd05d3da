"""The torture itself: a sound pushq passes a run of each class."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.record import Record
from tests.support.supervisors import ROOT, environment
from tests.torture_drain.plan import Situation
from tests.torture_drain.record import by_seed

CLASSES = (
    Situation.QUICK,
    Situation.STUBBORN,
    Situation.STARTING,
    Situation.SILENT,
    Situation.FROZEN,
    Situation.BEREFT,
)


SEED = 368  # and the next five: each has one pool


@pytest.mark.timeout(180)  # a dozen supervisors have to start beside everything else
def test_a_supervisor_of_each_class_is_gone_in_time_and_leaves_nothing_behind(tmp_path: Path) -> None:
    situations = [argument for situation in CLASSES for argument in ("--situation", situation.name)]
    command = [sys.executable, "-m", "tests.torture_drain", "--json", "--runs", "6", "--lanes", "2", *situations]
    record = tmp_path / "record.jsonl"
    ended = subprocess.run(
        [*command, "--seed", str(SEED), "--record", record],
        env=environment(None),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    runs = [json.loads(line) for line in ended.stdout.splitlines()]

    assert ended.returncode == 0, ended.stderr
    assert {run["situation"] for run in runs} == set(CLASSES)
    assert [run for run in runs if run["violations"]] == []
    assert sorted(by_seed(Record(record).runs)) == [run["seed"] for run in runs] == list(range(SEED, SEED + 6))
