"""Real supervisors, with the benchmark's tasks."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.error import HTTPError

from anyio import to_thread

from pushq.bench.machine import cpu_seconds
from pushq.bench.waiting import wait_until
from pushq.errors import PushqError
from pushq.local import supervisor

TASKS = "pushq.bench.tasks:tasks"
TUNED = ("--concurrency=1000",)
"""Flags that make a supervisor fastest with jobs that do nothing."""
SECONDS_TO_BE_READY = 30.0


@dataclass(frozen=True, slots=True)
class RunningSupervisor:
    process: subprocess.Popen[bytes]
    port: int

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the HTTP port."""
        return await to_thread.run_sync(_get, f"http://127.0.0.1:{self.port}{path}")

    async def wait_ready(self) -> None:
        """Waits until every pool claims and hears the bell. Raises PushqError if that takes too long."""

        async def is_ready() -> bool:
            self.check_alive()
            return (await self.get("/readyz"))[0] == 200

        await wait_until(is_ready, "A supervisor was not ready", within=SECONDS_TO_BE_READY, every=0.02)

    def check_alive(self) -> None:
        """Raises PushqError if the supervisor has ended by itself."""
        if self.process.poll() is not None:
            raise PushqError(f"A supervisor ended by itself, with {self.process.returncode}.")

    def cpu_seconds(self) -> float:
        """Seconds of CPU of the supervisor and its pools so far."""
        return cpu_seconds(self.process.pid)


@contextmanager
def supervising(url: str, *flags: str, supervisors: int = 1) -> Iterator[list[RunningSupervisor]]:
    """Runs supervisors for the length of the block, with default settings except the flags."""
    with ExitStack() as stack:
        yield [
            RunningSupervisor(*stack.enter_context(supervisor.supervising(url, TASKS, *flags)))
            for _ in range(supervisors)
        ]


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - our own
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()
