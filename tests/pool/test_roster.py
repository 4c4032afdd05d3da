"""SIGUSR1 to a supervisor: what is every worker doing, since when, and where? Also of a pool that a handler blocks."""

from __future__ import annotations

import inspect
import json
import re
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.support import handlers
from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import wait_until


def _shown(supervisor: RunningSupervisor, event: str, count: int) -> list[dict[str, Any]]:
    """The lines of that event in the pools' last answers: so many, and no more. Asks until handlers have begun."""

    def ask() -> list[dict[str, Any]]:
        supervisor.signal(signal.SIGUSR1)
        found = [line for answer in _last_answers(supervisor) for line in answer if line["event"] == event]
        return found if len(found) == count else []

    return wait_until(ask)


def _last_answers(supervisor: RunningSupervisor) -> list[list[dict[str, Any]]]:
    """A pool says how many workers are busy, and shows each of them. Without what a pool has not said in full."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, supervisor.said.splitlines()):
        if line["event"] == "pool shown":
            answers[line["source"]] = [line]
        elif line["event"] == "worker shown":
            answers[line["source"]].append(line)
    return [answer for answer in answers.values() if len(answer) == 1 + answer[0]["busy"]]


async def test_a_supervisor_that_is_asked_shows_what_each_worker_is_doing_and_where(
    database_url: str, connection: Connection
) -> None:
    """However quiet its log is to be; and nothing comes of it for the jobs."""
    flags = ("--log-format", "json", "--log-level", "error", "--processes", "2", "--concurrency", "3")
    with supervising(database_url, *flags) as supervisor:
        jobs: dict[UUID, str] = {}  # and the functions of their handlers
        for task, function in (("sleep", "sleep"), ("sleep.thread", "sleep_in_thread")):
            (job,) = await insert(connection, task, payload={"seconds": 3})
            jobs[job] = function
        await has_count(connection, 2, "status = 'running'")
        await finished(connection, *await insert(connection, "echo"))
        (job,) = await insert(connection, "block", payload={"seconds": 3})
        jobs[job] = "block"
        await has_count(connection, 3, "status = 'running'")
        shown = _shown(supervisor, "worker shown", 3)
        rows = await finished(connection, *jobs)

    assert {UUID(one["id"]) for one in shown} == set(jobs)
    file = inspect.getsourcefile(handlers)
    for one in shown:
        function = jobs[UUID(one["id"])]
        assert re.match(rf'  File "{file}", line \d+, in {function}\n', one["traceback"])
        assert (one["attempt"], 0 < one["seconds"] < 3) == (1, True)
    assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 1)}


async def test_a_pool_in_which_a_handler_lets_no_other_code_run_writes_its_stacks(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        await insert(connection, "compute.in.c")
        await has_count(connection, 1, "status = 'running'")
        wait_until(lambda: _is_silent(supervisor))
        wait_until(lambda: "in compute_in_c\n" in supervisor.said)


def _is_silent(supervisor: RunningSupervisor) -> bool:
    """Asks anew. A pool whose handler begins just then may have answered, and not have written what it shows."""
    supervisor.signal(signal.SIGUSR1)
    return "pool silent pool=1" in supervisor.said


def test_a_pool_that_imports_its_tasks_shows_where(database_url: str, tmp_path: Path) -> None:
    importing = tmp_path / "importing"
    tasks, flags = "tests.prove.faults.habits:tasks", ("--log-format", "json")
    with supervising(database_url, *flags, tasks=tasks, ready=False, TEST_SLOW_IMPORT=str(importing)) as supervisor:
        wait_until(importing.exists)
        (shown,) = _shown(supervisor, "pool shown", 1)

    assert 'tests/prove/faults/habits.py", line ' in shown["traceback"]
