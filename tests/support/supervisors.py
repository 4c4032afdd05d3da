"""Real supervisors, as an operator starts them."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError

from tests.support.waiting import wait_until

QUICK = {"HEARTBEAT_INTERVAL": "0.5", "LEASE": "1.5", "SWEEP_INTERVAL": "0.5", "SHUTDOWN_TIMEOUT": "5"}
ROOT = Path(__file__).parents[2]


def pushq(*arguments: str, url: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pushq", *arguments],
        env=environment(url, **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def environment(url: str | None, **settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHQ_", "PG"))}
    any_port = {"HTTP_PORT": "0"}  # the usual one may be somebody's
    given = {f"PUSHQ_{name}": value for name, value in (any_port | settings).items()}
    return clean | given | ({"PUSHQ_DATABASE_URL": url} if url else {})


@dataclass
class RunningSupervisor:
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def instants(self, words: str) -> list[float]:
        """When it wrote its lines with these words, in seconds."""
        times = re.findall(rf"^(\S+)Z .*{re.escape(words)}", self.said, re.MULTILINE)
        return [datetime.fromisoformat(f"{one}+00:00").timestamp() for one in times]

    @property
    def port(self) -> int:
        line = wait_until(lambda: [line for line in self.said.splitlines() if "http_port=" in line])[0]
        return int(line.rpartition("http_port=")[2])

    @property
    def pools(self) -> list[int]:
        """The process ids of its children, the oldest first."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def wait_ready(self) -> None:
        wait_until(lambda: self.get("/readyz")[0] == 200, within=20)

    def wait_told(self, told: socket.socket, state: bytes) -> None:
        """Waits until the supervisor tells systemd this state. The wait costs no CPU, as asking /readyz would."""
        told.setblocking(False)

        def look() -> bool:
            select.select([told], [], [], 0.2)
            with suppress(BlockingIOError):
                return state in told.recv(1000).splitlines()
            assert self.process.poll() is None, "It ended before it was ready."
            return False

        wait_until(look, within=20)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_all(self) -> None:
        """The whole process group, as when the host dies."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self, within: float = 20) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(within)

    def end(self) -> None:
        """Kills it if it still lives. Pools die with their supervisor; nothing is left for the next test."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        _wait_group_gone(self.process.pid)


@contextmanager
def supervising(
    url: str,
    *flags: str,
    tasks: str = "tests.support.handlers:tasks",
    ready: bool = True,
    program: str = "pushq",
    directory: str = "",
    **settings: str,
) -> Iterator[RunningSupervisor]:
    """A supervisor with quick settings, in a process group of its own. directory: to start it in, as an application."""
    with TemporaryDirectory() as temporary:
        env = environment(url, **(QUICK | settings))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            if ready:
                told.bind(f"{temporary}/told")
                env["NOTIFY_SOCKET"] = f"{temporary}/told"
            log = Path(temporary) / "log"
            supervisor = launch(log, tasks, *flags, env=env, program=program, directory=directory)
            try:
                if ready:
                    supervisor.wait_told(told, b"READY=1")
                yield supervisor
            finally:
                supervisor.end()
                if "PYTEST_CURRENT_TEST" in os.environ:  # shown if the test fails, also by what it looks at afterwards
                    print(supervisor.said, file=sys.stderr)


def launch(
    log: Path,
    tasks: str,
    *flags: str,
    env: dict[str, str],
    program: str = "pushq",
    directory: str = "",
) -> RunningSupervisor:
    """Starts one, which appends to its log. program: a module that does as `pushq` does."""
    safely = ["-P"] if directory else []  # as the command `pushq` is started: the directory is not on its path
    with log.open("ab") as writable:
        process = subprocess.Popen(
            [sys.executable, *safely, "-m", program, "supervise", tasks, "--http-port", "0", *flags],
            env=env,
            cwd=directory or ROOT,
            stderr=writable,
            start_new_session=True,
        )
    return RunningSupervisor(process, log)


def _wait_group_gone(group: int) -> None:
    """Kills what is left of it. A process that has ended, and is not reaped yet, is gone."""
    deadline = time.monotonic() + 10
    while (living := [*_members(group)]) and time.monotonic() < deadline:
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _members(group: int) -> Iterator[int]:
    """The processes of a group that have not ended."""
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # pid (name) state ppid pgrp …: a name may hold anything
            state, _, pgrp = (directory / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                yield int(directory.name)
