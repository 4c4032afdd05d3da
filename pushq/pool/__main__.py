"""Where a pool's process begins: `python -m pushq.pool FD`, the file descriptor being its end of the line."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress

import anyio

from pushq.errors import TasksError
from pushq.exporter.logs import log_events
from pushq.link import Assignment, Link, Unable
from pushq.pool import run_pool
from pushq.pool.loading import load_tasks

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = int(sys.argv[2])
    _die_with(parent)
    # A terminal and systemd signal the whole group: only the supervisor answers, and tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = 0
    try:
        anyio.run(_serve, socket.socket(fileno=int(sys.argv[1])))
    except BaseException:  # noqa: BLE001 - it is printed, and the process ends
        code = 1
        _end_soon(code)
        traceback.print_exc()
    _end_soon(code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read what handlers print is gone
            stream.flush()
    os._exit(code)  # threads of handlers that never return must not keep the process


def _end_soon(code: int) -> None:
    """Whether or not somebody reads what is still to be written."""
    last = threading.Timer(1.0, os._exit, (code,))
    last.daemon = True
    last.start()


def _die_with(parent: int) -> None:
    """A pool whose loop is blocked cannot see its line close: let the kernel end it with its supervisor."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


async def _serve(end: socket.socket) -> None:
    end.setblocking(False)
    link = await Link.over(end)
    assignment = await link.receive()
    assert isinstance(assignment, Assignment)
    form, level, errors = assignment.log_format, assignment.log_level, assignment.log_errors
    with log_events(form, level, errors, source=f"pool {assignment.pool}"):
        try:
            tasks = load_tasks(assignment.tasks)
        except TasksError as error:
            await link.send(Unable(str(error)))
            return
        await run_pool(assignment, tasks, link)


if __name__ == "__main__":
    main()
