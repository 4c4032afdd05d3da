"""The directory that a supervisor is started in, what lies there, and what if it is removed; a home that is closed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.jobs import Connection, finished, insert
from tests.support.proxy import proxied
from tests.support.supervisors import QUICK, ROOT, RunningSupervisor, environment, supervising
from tests.support.waiting import wait_until

APP = """
import queue
import types

from pushq import Tasks

tasks = Tasks()


@tasks.register("where")
async def where() -> list[str]:
    return [queue.__file__, types.__file__]
"""
TRAP = "raise SystemExit('a file of the application was taken for a module of the same name')"


async def test_files_that_are_named_like_modules_hide_none(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """Python's own, those of pushq and of all that is installed. So is `pushq.py`."""
    for name in {*sys.stdlib_module_names, *packages_distributions(), "pushq"}:
        (tmp_path / f"{name}.py").write_text(TRAP)
    (tmp_path / "jobs_of_ours.py").write_text(APP)
    with supervising(database_url, tasks="jobs_of_ours:tasks", directory=str(tmp_path)):
        (row,) = await finished(connection, *await insert(connection, "where"))

    assert row["status"] == "succeeded"
    assert str(tmp_path) not in row["result"]


async def test_pools_go_on_where_their_directory_is_removed_if_they_do_not_need_it(
    database_url: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "jobs_of_ours.py").write_text(APP)
    (tmp_path / "release").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    with supervising(database_url, tasks="jobs_of_ours:tasks", directory=str(tmp_path / "release")) as supervisor:
        shutil.rmtree(tmp_path / "release")
        os.kill(supervisor.pools[0], signal.SIGKILL)
        wait_until(lambda: supervisor.said.count("pool ready") == 2)
        (row,) = await finished(connection, *await insert(connection, "where"))
        assert supervisor.stop() == 0

    assert row["status"] == "succeeded"


def test_where_the_removed_directory_held_their_code_the_supervisor_asks_to_be_started_anew(
    database_url: str, tmp_path: Path
) -> None:
    """As it is when one release is replaced by the next. In the same place it would never find it."""
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "jobs_of_ours.py").write_text(APP)
    with supervising(database_url, tasks="jobs_of_ours:tasks", directory=str(tmp_path / "release")) as supervisor:
        shutil.rmtree(tmp_path / "release")
        os.kill(supervisor.pools[0], signal.SIGKILL)
        assert supervisor.process.wait(20) == 1
        said = supervisor.said

    assert "There is no module 'jobs_of_ours' among the installed packages, and the current directory has been" in said
    assert "Traceback" not in said


async def test_a_user_who_is_a_number_and_has_the_home_of_another_runs_jobs(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """As in a container, or where supervisord has changed the user: asyncpg looks for certificates in that home."""
    async with proxied(database_url) as proxy:
        with _nameless(f"{proxy.url}&sslmode=prefer", tmp_path) as supervisor:
            (row,) = await finished(connection, *await insert(connection, "echo"))
            assert await asyncio.to_thread(supervisor.stop) == 0

    assert row["status"] == "succeeded"


@contextmanager
def _nameless(url: str, directory: Path) -> Iterator[RunningSupervisor]:
    (directory / "home").mkdir(mode=0o000)
    begin = ["unshare", "--user", "--map-user=54321", "--map-group=54321", sys.executable, "-m", "pushq", "supervise"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*begin, "tests.support.handlers:tasks", "--http-port", "0"],
            env=environment(url, **QUICK) | {"HOME": str(directory / "home"), "LOGNAME": "", "USER": ""},
            cwd=ROOT,
            stderr=log,
            start_new_session=True,
        )
    supervisor = RunningSupervisor(process, directory / "log")
    try:
        yield supervisor
    except BaseException:
        print(supervisor.said)
        raise
    finally:
        supervisor.end()
