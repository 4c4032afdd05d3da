"""README's quick start runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.supervisors import ROOT, environment
from tests.support.waiting import wait_until


def test_the_quick_start_of_the_readme_runs_as_it_stands(
    empty_database_url: str, server_bin_directory: Path, tmp_path: Path
) -> None:
    text = (ROOT / "README.md").read_text()
    section = re.search(r"^## Quick start\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section
    (handlers,) = re.findall(r"```python\n(.*?)```", section[1], re.DOTALL)
    (name,) = re.findall(r"Save a handler as `(\w+\.py)`", section[1])
    first, second = (
        [line.removeprefix("$ ") for line in block.splitlines()]
        for block in re.findall(r"```console\n(.*?)```", section[1], re.DOTALL)
    )
    (tmp_path / name).write_text(handlers)
    path = f"{Path(sys.executable).parent}:{server_bin_directory}:{os.environ['PATH']}"
    env = environment(empty_database_url, HTTP_PORT="0") | {"PATH": path, "PYTHONUNBUFFERED": "1"}

    def type_in(command: str) -> str:
        return subprocess.run(
            ["bash", "-c", command], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=30, check=True
        ).stdout

    type_in(first[0])
    with (tmp_path / "said").open("w") as said:
        supervisor = subprocess.Popen(first[1].split(), env=env, cwd=tmp_path, stdout=said, stderr=said)
    try:
        type_in(second[0])
        wait_until(lambda: "Hello, Ada!" in (tmp_path / "said").read_text())
        listed = wait_until(lambda: jobs if "succeeded" in (jobs := type_in(second[1])) else "")
        (job,) = re.findall(r"[0-9a-f]{8}-[-0-9a-f]{27}", listed)
        assert "greeted Ada" in type_in(f"pushq jobs show {job}")
        supervisor.terminate()
        assert supervisor.wait(20) == 0
    finally:
        supervisor.kill()
        supervisor.wait()
