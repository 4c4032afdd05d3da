"""The hosts: three supervisors, each a process group with a proxy and a log; the last has a clock of its own.

They share the log of the handlers.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio

from tests.support.supervisors import RunningSupervisor, environment, launch
from tests.torture.proxy import Proxy
from tests.torture.schedule import HOSTS, LEASE, OF_ONE_HOST, QUEUES

WORKERS = 4
SHUTDOWN = 1.5
SETTINGS = {
    "LEASE": f"{LEASE:g}",
    "HEARTBEAT_INTERVAL": "0.5",
    "SWEEP_INTERVAL": "0.5",
    "POLL_INTERVAL": "0",
    "SHUTDOWN_TIMEOUT": f"{SHUTDOWN:g}",
    "LOG_FORMAT": "json",
    "WEBHOOKS": "6",
    "WEBHOOK_ALLOW": "127.0.0.1/32",
}
COMPLAINT = re.compile(r"Traceback|never retrieved|was destroyed but|Exception ignored|never awaited")
TASKS = "tests.torture.handlers:tasks"


class Host:
    """is_wanted: whether its supervisor is to be started again when it ends. groups: its process groups so far."""

    def __init__(
        self,
        number: int,
        directory: Path,
        runs: Path,
        proxy: Proxy,
        database: str,
        planted: str | None,
        clock: Clock | None,
    ) -> None:
        self.number = number
        self.proxy = proxy
        self.clock = clock
        self.log = directory / f"host{number}.log"
        self.no_threads = directory / f"host{number}.no-threads"
        """While this file is there, its pools get no threads for handlers; how often they asked is in it."""
        self.is_wanted = True
        self.groups: list[int] = []
        self._planted = planted
        self._database = database
        self._runs = runs
        self._supervisor: RunningSupervisor | None = None

    @property
    def url(self) -> str:
        return f"postgresql://pushq@127.0.0.1:{self.proxy.port}/{self._database}?sslmode=disable"

    @property
    def is_up(self) -> bool:
        return self._supervisor is not None and self._supervisor.process.poll() is None

    @property
    def pid(self) -> int:
        """Of its supervisor, which is up."""
        assert self._supervisor
        return self._supervisor.process.pid

    @property
    def pools(self) -> list[int]:
        with suppress(OSError):  # it has just died
            return self._supervisor.pools if self._supervisor else []
        return []

    @property
    def port(self) -> int:
        """Where it serves its metrics; 0: it has not said so yet."""
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        return int(next(iter(re.findall(r'"http_port": (\d+)', said)[-1:]), 0))

    def _start(self) -> None:
        given = {"TEST_RUNS": str(self._runs), "TEST_HOST": str(self.number), "TEST_NO_THREADS": str(self.no_threads)}
        if self._planted:
            given["TEST_PLANTED"] = self._planted
        env = environment(self.url, **SETTINGS, **given) | (self.clock.environment if self.clock else {})
        of_its_own = [OF_ONE_HOST] if self.number == HOSTS - 1 else []
        queues = [f"--queue={name}" for name in (*QUEUES, *of_its_own)]
        self._supervisor = launch(
            self.log, TASKS, f"--concurrency={WORKERS}", *queues, env=env, program="tests.torture.supervise"
        )
        self.groups.append(self._supervisor.process.pid)

    def signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def keep_up(self) -> None:
        """As systemd would."""
        while True:
            if self.is_wanted and not self.is_up:
                self._start()
            await anyio.sleep(0.2)

    async def reap(self, within: float) -> int | None:
        """The exit code of its supervisor, once it has ended; None: not so soon."""
        with anyio.move_on_after(within):
            while self.is_up:  # noqa: ASYNC110 - that a process ends is no event of ours
                await anyio.sleep(0.02)
        assert self._supervisor
        return self._supervisor.process.returncode

    @property
    def complaints(self) -> list[str]:
        """Lines of its log that tell of a bug, and not of a fault."""
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [f"host {self.number}: {line[:300]}" for line in said.splitlines() if COMPLAINT.search(line)]

    def end(self) -> None:
        if self._supervisor:
            self.signal_group(signal.SIGCONT)
            self._supervisor.end()
        for group in self.groups:  # a pool may have outlived its supervisor, which is a bug
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


class Clock:
    """A wall clock that can be stepped while processes go by it. Their monotonic clock stays the machine's.

    It is libfaketime, which reads how far it is off from a file.
    """

    def __init__(self, library: Path, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds; each call would read the file otherwise
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}\n")
        new.replace(self._file)


def processes_of(groups: list[int]) -> Iterator[str]:
    """Those that live in these process groups, zombies aside, as `PID (NAME)`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                name, _, rest = entry.joinpath("stat").read_text().rpartition(")")
                state, _, group = rest.split()[:3]
                if int(group) in groups and state != "Z":
                    yield f"{name.replace(' ', ' ', 1)})"


def is_stopped(pid: int) -> bool:
    return state_of(pid) == "T"


def state_of(pid: int) -> str:
    """A letter: T is stopped, Z a zombie; none: it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
