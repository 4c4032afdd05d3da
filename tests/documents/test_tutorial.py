"""The tutorial runs as it stands: its files are saved, its commands typed in."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.supervisors import ROOT, environment
from tests.support.waiting import wait_until

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def test_the_tutorial_runs_as_it_stands(empty_database_url: str, server_bin_directory: Path, tmp_path: Path) -> None:
    port = str(_free_port())
    text = (ROOT / "docs" / "tutorial.md").read_text().replace("8000", port)
    for name, block in re.findall(r"`([\w/]+\.\w+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(block)
    _, migrate, test, serve, supervise, use = (
        [line.removeprefix("$ ") for line in block.splitlines()]
        for kind, block in BLOCK.findall(text)
        if kind == "console"
    )
    path = f"{Path(sys.executable).parent}:{server_bin_directory}:{os.environ['PATH']}"
    env = environment(None, HTTP_PORT="0") | {"PATH": path, "DATABASE_URL": empty_database_url}

    def type_in(command: str) -> str:
        ended = subprocess.run(
            ["bash", "-c", command], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    for command in migrate:
        type_in(command)
    tested = type_in(test[0])
    assert "1 passed" in tested
    assert "warning" not in tested
    with ExitStack() as running:
        for command in (serve[0], supervise[0]):
            running.enter_context(_running(command, env, tmp_path))
        wait_until(lambda: _listens(int(port)))
        assert '"user":1' in type_in(use[0])
        wait_until(lambda: "succeeded" in type_in(use[1]))
        assert "Welcome, Ada!" in type_in(use[2])


@contextmanager
def _running(command: str, env: dict[str, str], directory: Path) -> Iterator[None]:
    process = subprocess.Popen(command.split(), env=env, cwd=directory)
    try:
        yield
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])
