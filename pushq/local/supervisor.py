"""A real supervisor, which does not outlive the command that shows or measures it."""

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
    """A `pushq supervise` of MODULE:TASKS, with default settings but for the flags, and the port of its /metrics.

    It is in a session of its own: Ctrl-C is for us, who then stop it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHQ_")}
    command = [sys.executable, "-m", "pushq", "supervise", tasks]
    supervisor = subprocess.Popen(
        [*command, "--http-port=0", "--log-format=json", "--shutdown-timeout=2", *flags],
        cwd="/",  # the .env of ours is about another queue
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
    """It says where it serves when it starts. The rest is read too, so that it never waits for a full pipe."""
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
