"""The torture itself: a sound pushq passes a small run, a schedule can be played again, and each bug can be planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.supervisors import ROOT, environment
from tests.torture.schedule import Fault, Schedule

SEED = 70_000
"""That no battery comes to."""


@pytest.mark.timeout(300)  # a server and three hosts have to start beside everything else
def test_a_run_of_random_faults_breaks_no_promise(tmp_path: Path) -> None:
    faults = (Fault(1, "kill pool", 0, 0), Fault(1.5, "hold", 1, 3), Fault(2, "drain", 2, 0.5), Fault(3, "cut", 0, 0))
    Schedule(7, 100, 5, faults).write(tmp_path / "schedule.json")
    command = [sys.executable, "-m", "tests.torture", "--json", "--replay", str(tmp_path / "schedule.json")]

    ended = subprocess.run(command, env=environment(None), cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.stdout, ended.stderr
    report = json.loads(ended.stdout)
    assert report["violations"] == []
    assert report["toothless"] == []
    assert all(
        report[what] > 0 for what in ("runs", "waits", "guests", "events", "files", "deliveries", "rules", "looks")
    )
    assert report["faults"] == {"kill pool": 1, "hold": 1, "drain": 1, "cut": 1, "kill host": 1}  # the last by a scene
    assert ended.returncode == 0


def test_a_schedule_is_drawn_from_its_seed_alone_and_can_be_written_down(tmp_path: Path) -> None:
    drawn = Schedule.drawn(5)
    drawn.write(tmp_path / "schedule.json")

    assert Schedule.read(tmp_path / "schedule.json") == drawn == Schedule.drawn(5) != Schedule.drawn(6)


@pytest.mark.parametrize("text", ["", "[]", '{"seed": 1}', '{"seed": 1, "jobs": 2, "seconds": 3, "faults": [{}]}'])
def test_what_is_no_schedule_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "schedule.json"
    file.write_text(text)

    with pytest.raises(ValueError, match="is no schedule of a torture"):
        Schedule.read(file)
