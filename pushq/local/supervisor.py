"""A real supervisor for a command that shows or measures supervisors. The supervisor dies with the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import IO

from pushq.errors import PushqError
from pushq.local.death import dying_with_us


@contextmanager
def supervising(url: str, tasks: str, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Runs `pushq supervise MODULE:TASKS` with default settings and the flags.

    Yields the process and the port of /metrics.

    The supervisor runs in a session of its own, which Ctrl-C does not reach: this process stops the supervisor. Raises
    PushqError, with the log, if the supervisor does not start.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHQ_")}
    command = [sys.executable, "-m", "pushq", "supervise", tasks]
    supervisor = subprocess.Popen(
        [*command, "--http-port=0", "--log-format=json", "--shutdown-timeout=2", *flags],
        cwd="/",  # a .env in the current directory is about another queue
        env=environment | {"PUSHQ_DATABASE_URL": url},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=dying_with_us(signal.SIGTERM),  # noqa: PLW1509 - no thread of ours holds a lock here
    )
    assert supervisor.stderr is not None
    try:
        yield supervisor, _port(supervisor.stderr)
    finally:
        _stop(supervisor)


def _port(log: IO[bytes]) -> int:
    """The port of /metrics, from the log of the start. A thread reads on, so that the pipe never fills."""
    said: list[bytes] = []
    for line in log:
        said.append(line)
        if b'"supervisor started"' in line:
            Thread(target=log.read, daemon=True).start()
            return int(json.loads(line)["http_port"])
    raise PushqError(f"The supervisor did not start; it said: {b''.join(said).decode(errors='replace').strip()}")


def _stop(supervisor: subprocess.Popen[bytes]) -> None:
    supervisor.terminate()
    try:
        supervisor.wait(10)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
