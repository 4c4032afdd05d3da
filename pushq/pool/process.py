"""What a pool's process does, from its first line on: `python -m pushq.pool_process FD PARENT ASKED`.

FD: the file descriptor of the pool's end of the line to the supervisor. PARENT: the supervisor's process id. ASKED: the
file descriptor of another line, on which the supervisor asks what the workers are doing.
"""

from __future__ import annotations

import asyncio
import faulthandler
import socket
import sys
import traceback
from importlib import import_module

import anyio
from anyio import to_thread

from pushq.errors import LifespanRaised, TasksError, TasksRaised
from pushq.exporter.logs import log_events
from pushq.exporter.records import make_records_from
from pushq.link import DUMP_STACKS, Assignment, Link, Unable, receive_first, send_last
from pushq.local.death import die_with
from pushq.pool import run_pool
from pushq.pool.leaving import LAST_WORDS, LAST_WORDS_OF_A_FAULT, be_gone_within, call_exit_functions, leave
from pushq.pool.loading import load_tasks
from pushq.pool.loop import PoolLoop
from pushq.pool.memory import keep_large_buffers_off_the_heap, spare_what_is_loaded
from pushq.pool.roster import Roster
from pushq.pool.signals import OTHERS, STOPPING, leave_to_the_supervisor, spare_children
from pushq.task import Tasks

_LEFT_TASKS = 1.0
"""Seconds that the tasks left by handlers have to end, once cancelled."""


def main() -> None:
    parent = int(sys.argv[2])
    die_with(parent)  # a pool whose loop is blocked cannot see the line close
    keep_large_buffers_off_the_heap()
    leave_to_the_supervisor(*STOPPING, *OTHERS)
    faulthandler.register(DUMP_STACKS, 2)  # even if a handler lets no other code run
    spare_children()
    end, asked = _socket(sys.argv[1]), _socket(sys.argv[3])
    assignment = receive_first(end)
    assert isinstance(assignment, Assignment)
    form, level, errors = assignment.log_format, assignment.log_level, assignment.log_errors
    with log_events(form, level, errors, source=f"pool {assignment.pool}"):
        roster = Roster()
        roster.answer(asked)
        code = _run(end, assignment, roster)
        call_exit_functions()
    leave(code)


def _socket(descriptor: str) -> socket.socket:
    """Opens a line that children of handlers do not inherit: a child left behind must not keep the line open."""
    line = socket.socket(fileno=int(descriptor))
    line.set_inheritable(False)
    return line


def _run(end: socket.socket, assignment: Assignment, roster: Roster) -> int:
    """Returns the exit code."""
    try:
        _begin(end, assignment, roster)
    except LifespanRaised:  # which is logged
        be_gone_within(LAST_WORDS)
        return 1
    except BaseException:  # noqa: BLE001 - printed, and the process ends
        be_gone_within(LAST_WORDS_OF_A_FAULT)
        traceback.print_exc()
        return 1
    be_gone_within(LAST_WORDS)
    return 0


def _begin(end: socket.socket, assignment: Assignment, roster: Roster) -> None:
    """Imports the tasks before the pool's event loop runs: a module may run a loop of its own during its import."""
    try:
        tasks = _tasks(assignment)
    except (TasksError, TasksRaised) as error:
        send_last(end, Unable(str(error), may_pass=isinstance(error, TasksRaised)))
        return
    make_records_from(assignment.log_level)
    spare_what_is_loaded()
    leave_to_the_supervisor(*STOPPING)  # the module may have changed handlers of signals
    anyio.run(_serve, end, assignment, tasks, roster, backend_options={"loop_factory": PoolLoop})


def _tasks(assignment: Assignment) -> Tasks:
    """The tasks of the user, or the one that delivers webhooks, whose modules no other pool imports."""
    if not assignment.delivers:
        return load_tasks(assignment.tasks)
    tasks: Tasks = import_module("pushq.webhooks.deliver").tasks_for(assignment)
    return tasks


async def _serve(end: socket.socket, assignment: Assignment, tasks: Tasks, roster: Roster) -> None:
    end.setblocking(False)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PoolLoop)
    await to_thread.run_sync(int)  # the first thread has anyio find the loop's first task, which hide_tasks() hides
    loop.hide_tasks()
    try:
        await run_pool(assignment, tasks, await Link.over(end), roster)
        be_gone_within(LAST_WORDS)
    except BaseException:
        be_gone_within(LAST_WORDS_OF_A_FAULT)
        raise
    finally:
        await loop.end_tasks(_LEFT_TASKS)
