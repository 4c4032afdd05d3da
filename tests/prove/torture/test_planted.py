"""Each bug can be planted, and one that is gets found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import Connection
from tests.support.planting import spoil
from tests.support.supervisors import ROOT, environment
from tests.torture.planted import IN_DATABASE
from tests.torture.schedule import HOSTS, Fault, Schedule

SEED = 70_032
"""That no battery comes to."""
ORPHANED = tuple(Fault(at, "kill supervisor", host, 0.5) for at in (3.0, 12.0) for host in range(HOSTS))
"""Six pools lose their supervisors. Three jobs of each run kill the process that runs them, maybe one of the six."""


@pytest.mark.timeout(300)
def test_a_planted_bug_is_found_told_and_kept_to_be_played_again(tmp_path: Path) -> None:
    schedule = Schedule(SEED, 40, 3, ORPHANED)
    schedule.write(tmp_path / "schedule.json")
    command = [sys.executable, "-m", "tests.torture", "--json", "--replay", str(tmp_path / "schedule.json")]
    command += ["--planted", "pools-outlive", "--record", str(tmp_path / "record.jsonl")]

    ended = subprocess.run(command, env=environment(None), cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.stdout, ended.stderr
    assert "CLEAN" in {violation["code"] for violation in json.loads(ended.stdout)["violations"]}
    assert ended.returncode == 1
    assert f"again: make torture REPLAY=build/torture/{SEED}.json" in ended.stderr
    assert Schedule.read(ROOT / "build" / "torture" / f"{SEED}.json") == schedule
    assert (ROOT / "build" / "torture" / str(SEED) / "host0.log").exists()
    assert not (tmp_path / "record.jsonl").exists()  # a replay is no run of a battery


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("bug", "code"), [("never-told", "TOLD"), ("going-on-unnoted", "EVENT"), ("token-unspent", "NEED")]
)
def test_a_bug_that_needs_no_fault_is_found_without_one(tmp_path: Path, bug: str, code: str) -> None:
    Schedule(SEED + 1, 40, 1, ()).write(tmp_path / "schedule.json")
    command = [sys.executable, "-m", "tests.torture", "--json", "--replay", str(tmp_path / "schedule.json")]

    ended = subprocess.run(
        [*command, "--planted", bug], env=environment(None), cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.stdout, ended.stderr
    violations = json.loads(ended.stdout)["violations"]
    assert code in {violation["code"] for violation in violations}, "\n".join(map(str, violations))
    # Webhooks are told of events: of one that is not noted, nobody is told.
    others = [str(violation) for violation in violations if violation["code"] not in (code, "HOOK")]
    assert not others, "\n".join(others)


@pytest.mark.parametrize("bug", IN_DATABASE)
async def test_every_bug_in_the_database_can_still_be_planted(connection: Connection, bug: str) -> None:
    for function, sound, by in IN_DATABASE[bug]:
        await spoil(connection, function, sound, by)


def test_every_bug_can_still_be_planted() -> None:
    """Each in a process of its own, as a bug changes the program for good."""
    program = (
        "import os\n"
        "from tests.torture.planted import BUGS, plant\n"
        "for name in BUGS:\n"
        "    if (child := os.fork()) == 0:\n"
        "        plant(name)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, name\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
