"""Processes that cannot begin, that fork, that are orphaned, or that are the first of a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest

from tests.prove.faults.process_handlers import CHILDREN
from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.supervisors import QUICK, ROOT, environment, supervising
from tests.support.waiting import eventually, wait_until
from tests.torture.hosts import processes_of

TASKS = "tests.prove.faults.process_handlers:tasks"


# Pools that do not begin ----------------------------------------------------------------------------------------------


def test_pools_that_are_just_starting_die_with_their_supervisor(database_url: str) -> None:
    with supervising(database_url, "--processes", "3", ready=False) as supervisor:
        wait_until(lambda: supervisor.said.count("pool started") == 3, within=30)
        supervisor.process.kill()
        supervisor.process.wait(10)
        # They look for their parent when they have imported what they need.
        wait_until(lambda: not list(processes_of([supervisor.process.pid])), within=20)


async def test_a_pool_that_dies_at_every_start_is_started_ever_more_rarely_and_costs_no_attempt(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """And once it lives, everything runs."""
    broken = tmp_path / "broken"
    broken.write_text("dies")
    jobs = await insert(connection, "echo", 5)
    with supervising(database_url, tasks=TASKS, ready=False, TEST_BROKEN=str(broken)) as supervisor:
        wait_until(lambda: supervisor.said.count("pool died") == 3, within=30)
        assert supervisor.get("/readyz")[0] == 503
        assert await count(connection, "status = 'queued' and attempt = 0 and crashes = 0") == 5
        broken.unlink()
        rows = await finished(connection, *jobs)
        deaths, starts = supervisor.instants("pool died"), supervisor.instants("pool started")

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
    pauses = [start - death for start, death in zip(starts[1:], deaths, strict=True)]
    # At once, after 0.5 to 1 s, after 1 to 2 s.
    assert pauses[1] >= 0.5
    assert pauses[2] >= 1


async def test_a_module_that_no_longer_imports_ends_the_supervisor_in_a_sentence_and_releases_what_ran(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    flags = ("--processes", "2", "--concurrency", "1")
    with supervising(database_url, *flags, tasks=TASKS, TEST_BROKEN=str(broken)) as supervisor:
        await insert(connection, "sleep", 2, payload={"seconds": 60})
        await has_count(connection, 2, "status = 'running'")
        broken.write_text("raises")
        os.kill(supervisor.pools[0], signal.SIGKILL)
        assert supervisor.process.wait(20) == 2
        said = supervisor.said

    module = TASKS.partition(":")[0]
    assert f"pushq: Module '{module}' fails to import: ImportError: as after a bad deploy" in said
    assert await count(connection, "status = 'queued' and crashes = 1") == 1  # the one whose pool was killed
    assert await count(connection, "status = 'queued' and crashes = 0") == 1
    assert await connection.fetchval("select count(*) from pushq.supervisors") == 0


# Modules of tasks -----------------------------------------------------------------------------------------------------


async def test_what_applications_do_when_they_are_imported_does_not_harm_their_pool(
    database_url: str, connection: Connection
) -> None:
    """They run an event loop, take signals for themselves, start threads, go elsewhere."""
    with supervising(database_url, tasks="tests.prove.faults.habits:tasks") as supervisor:
        (row,) = await finished(connection, *await insert(connection, "settings"))
        os.killpg(supervisor.process.pid, signal.SIGTERM)
        assert supervisor.process.wait(10) == 0
        said = supervisor.said

    assert row["result"] == '[{"answer": 42}, {"answer": 42}]'
    assert "supervisor stopped" in said
    assert "pool died" not in said


def test_a_pool_that_still_imports_its_tasks_does_not_hold_up_a_drain(database_url: str, tmp_path: Path) -> None:
    importing, habits = tmp_path / "importing", "tests.prove.faults.habits:tasks"
    slow = {"SHUTDOWN_TIMEOUT": "30", "TEST_SLOW_IMPORT": str(importing)}
    with supervising(database_url, tasks=habits, ready=False, **slow) as supervisor:
        wait_until(importing.exists)
        assert supervisor.stop(within=8) == 0
        said = supervisor.said

    assert "supervisor stopped" in said
    assert "pool died" not in said


# Handlers that fork ---------------------------------------------------------------------------------------------------


async def test_handlers_that_fork_harm_neither_their_pool_nor_its_connections(
    database_url: str, connection: Connection
) -> None:
    """A child is a copy of the pool, connections and all: it ends where its handler does, and runs no job."""
    with supervising(database_url, "--concurrency", "4", tasks=TASKS) as supervisor:
        expected = {}
        for number in range(5):
            for kind, (_, status) in CHILDREN.items():
                for task in ("fork", "fork.thread"):
                    (job,) = await insert(connection, task, payload={"kind": kind})
                    expected[job] = str(status)
            expected |= dict.fromkeys(await insert(connection, "multiprocessing"), "0")
            expected |= dict.fromkeys(await insert(connection, "subprocess"), '"hello\\n"')
            for letter in "abcd":
                (job,) = await insert(connection, "echo", payload={"canary": f"{letter}{number}"})
                expected[job] = f'{{"canary": "{letter}{number}"}}'
        rows = await finished(connection, *expected, within=30)
        await eventually(lambda: _has_no_children(supervisor.pools[0]))
        said = supervisor.said

    assert {row["id"]: row["result"] for row in rows} == expected
    # What a busy machine claims too far ahead is given back: that is an attempt more, and no fault.
    assert {(row["status"], row["failures"], row["crashes"]) for row in rows} == {("succeeded", 0, 0)}
    for trouble in ("pool died", "database lost", "bell down", "outcome refused"):
        assert trouble not in said


async def _has_no_children(pool: int) -> bool:
    return not any(task.joinpath("children").read_text() for task in Path(f"/proc/{pool}/task").iterdir())


async def test_what_a_handler_starts_gets_signals_as_any_program_does(
    database_url: str, connection: Connection
) -> None:
    """Though they mean nothing to the pool, and though they may come before the child has done anything."""
    term, others = signal.SIGTERM, (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    expected: dict[tuple[str, int], int] = {(how, term): -term for how in ("program", "fork", "process, forked")}
    expected |= {(how, number): -number for how in ("program", "fork") for number in others}
    expected |= {("shell", term): 7, ("process, spawned", term): -term, ("pool", term): 15}
    with supervising(database_url, "--concurrency", "4", tasks=TASKS) as supervisor:
        jobs: dict[UUID, tuple[str, int]] = {}
        for (how, number), code in expected.items():
            times = 5 if how == "process, forked" else 1
            payload = {"how": how, "number": number}
            jobs |= dict.fromkeys(await insert(connection, "start.and.signal", times, payload=payload), (how, code))
        (open_files,) = await finished(connection, *await insert(connection, "inheritable"))
        rows = await finished(connection, *jobs, within=40)
        await eventually(lambda: _has_no_children_but(supervisor.pools[0], "resource_tracker"))
        assert "pool died" not in supervisor.said

    assert {row["id"]: (jobs[row["id"]][0], row["result"]) for row in rows} == {
        job: (how, str(code)) for job, (how, code) in jobs.items()
    }
    assert open_files["result"] == "[]"


async def _has_no_children_but(pool: int, name: str) -> bool:
    commands = [Path(f"/proc/{child}/cmdline") for child in _children(pool)]
    with suppress(OSError):
        return all(name in command.read_text() for command in commands)
    return False


# Modules that have something to do at exit ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["returns", "hangs"])
async def test_a_pool_that_ends_does_what_modules_do_at_exit_and_hangs_for_none(
    database_url: str, connection: Connection, tmp_path: Path, name: str
) -> None:
    """An ordinary pool, and one for a suspect; also where a handler has left a task that heeds no cancellation."""
    exits = tmp_path / name
    exits.touch()
    (suspect,) = await insert(connection, "echo")
    await connection.execute("update pushq.jobs_unfinished set crashes = 2")
    with supervising(database_url, tasks=TASKS, TEST_EXITS=str(exits)) as supervisor:
        pool = supervisor.pools[0]
        (row,) = await finished(connection, suspect)
        wait_until(lambda: len(exits.read_text().splitlines()) == 1)
        await finished(connection, *await insert(connection, "leave.deaf.task"))
        assert supervisor.stop() == 0
        said = supervisor.said

    assert row["status"] == "succeeded"
    assert exits.read_text().splitlines()[1:] == [str(pool)]
    assert said.count("goodbye") == 2
    assert "died" not in said


# The first process of a container -------------------------------------------------------------------------------------


async def test_as_the_first_process_of_a_container_it_drains_and_reaps_orphans(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    with _contained(database_url, tmp_path / "log") as (unshare, supervisor, log):
        wait_until(lambda: "pool ready" in log.read_text(), within=20)
        await finished(connection, *await insert(connection, "orphan", 3, payload={"seconds": 2}))
        assert len(_children(supervisor)) == 1 + 3
        wait_until(lambda: len(_children(supervisor)) == 1)

        await insert(connection, "sleep", payload={"seconds": 1})
        await insert(connection, "sleep", payload={"seconds": 60})
        await has_count(connection, 2, "status = 'running'")
        os.kill(supervisor, signal.SIGTERM)
        assert unshare.wait(10) == 0

    assert "supervisor stopped" in log.read_text()
    assert await count(connection, "status = 'succeeded' and task = 'sleep'") == 1
    assert await count(connection, "status = 'queued' and attempt = 1 and crashes = 0 and failures = 0") == 1


@contextmanager
def _contained(url: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """A supervisor that is process 1 of a namespace; its process id here."""
    become_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", "--pid", "--fork", "--kill-child", *become_root, sys.executable, "-m", "pushq", "supervise"]
    settings = QUICK | {"SHUTDOWN_TIMEOUT": "2"}
    with log.open("wb") as writable:
        unshare = subprocess.Popen(
            [*command, TASKS, "--http-port", "0"],
            env=environment(url, **settings),
            cwd=ROOT,
            stderr=writable,
            start_new_session=True,
        )
    try:
        (supervisor,) = wait_until(lambda: _children(unshare.pid))
        yield unshare, supervisor, log
    except BaseException:
        print(log.read_text())
        raise
    finally:
        unshare.kill()  # and with it its child, and with that the whole namespace
        unshare.wait(10)


def _children(pid: int) -> list[int]:
    """Those of all its threads, zombies that nobody has reaped among them."""
    pids: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the thread has ended
            pids += [int(child) for child in task.joinpath("children").read_text().split()]
    return pids
