"""Where a pool's process begins: `python -m pushq.pool FD`, the file descriptor being its end of the line."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress

import anyio
from anyio import to_thread

from pushq.errors import TasksError, TasksRaised
from pushq.exporter.logs import log_events
from pushq.link import Assignment, Link, Unable, receive_first, send_last
from pushq.pool import run_pool
from pushq.pool.loading import load_tasks
from pushq.pool.loop import PoolLoop
from pushq.task import Tasks

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGPWR)
OTHERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)
"""Which a module of tasks may take for itself."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = int(sys.argv[2])
    _die_with(parent)
    _leave_to_the_supervisor(*STOPPING, *OTHERS)
    code = 0
    try:
        _begin(socket.socket(fileno=int(sys.argv[1])))
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


def _leave_to_the_supervisor(*signals: signal.Signals) -> None:
    """A terminal and systemd signal the whole group: only the supervisor answers, and tells us."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def _die_with(parent: int) -> None:
    """A pool whose loop is blocked cannot see its line close: let the kernel end it with its supervisor."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _begin(end: socket.socket) -> None:
    """Imports the tasks before there is an event loop: a module may run one of its own meanwhile."""
    assignment = receive_first(end)
    assert isinstance(assignment, Assignment)
    form, level, errors = assignment.log_format, assignment.log_level, assignment.log_errors
    with log_events(form, level, errors, source=f"pool {assignment.pool}"):
        try:
            tasks = load_tasks(assignment.tasks)
        except (TasksError, TasksRaised) as error:
            send_last(end, Unable(str(error), may_pass=isinstance(error, TasksRaised)))
            return
        _leave_to_the_supervisor(*STOPPING)  # whatever that module has done about them
        anyio.run(_serve, end, assignment, tasks, backend_options={"loop_factory": PoolLoop})


async def _serve(end: socket.socket, assignment: Assignment, tasks: Tasks) -> None:
    end.setblocking(False)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PoolLoop)
    await to_thread.run_sync(int)  # anyio looks for the first task at its first thread: it would not find it later
    loop.hide_tasks()
    await run_pool(assignment, tasks, await Link.over(end))


if __name__ == "__main__":
    main()
