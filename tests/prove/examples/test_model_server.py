"""Also what takes long: leases that run out, and the show."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import httpx

from tests.examples.test_model_server import *  # noqa: F403
from tests.examples.test_model_server import FOLDER, create, get, has_state, started
from tests.support.jobs import Connection
from tests.support.supervisors import RunningSupervisor, environment, launch
from tests.support.waiting import eventually

WITHIN = 5.0
"""Seconds, by the example's `.env`, and then the time that a process takes to start."""


def by_its_own_settings(url: str, log: Path) -> RunningSupervisor:
    return launch(log, "tasks:tasks", "--concurrency=1", env=environment(url), directory=str(FOLDER))


async def test_what_a_killed_supervisor_had_goes_on_with_the_next_one_within_five_seconds(
    app: Connection, database_url: str, model: Any, tmp_path: Path
) -> None:
    first = by_its_own_settings(database_url, tmp_path / "first")
    job = await create(app, payload={"seconds": 600})
    await eventually(lambda: _has_begun(model, 1), within=30)
    second = by_its_own_settings(database_url, tmp_path / "second")
    try:
        await asyncio.to_thread(second.wait_ready)
        first.kill_all()
        killed = monotonic()
        await eventually(lambda: _has_begun(model, 2), within=30)
        assert monotonic() - killed <= WITHIN + 3
        assert (await get(app, job))["attempt"] == 0
    finally:
        for supervisor in (first, second):
            supervisor.end()


async def _has_begun(model: Any, number: int) -> bool:
    return len(model.chats) >= number


async def test_through_kills_of_all_that_runs_each_chat_is_done(
    app: Connection, database_url: str, model: Any, tmp_path: Path
) -> None:
    jobs = [await create(app, f"model {n % 3}", job=f"job {n}", payload={"seconds": 0.05}) for n in range(60)]
    supervisors = []
    for number in range(4):
        supervisors.append(by_its_own_settings(database_url, tmp_path / str(number)))
        await asyncio.to_thread(supervisors[-1].wait_ready)
        for _ in range(2):
            seen = len(model.chats)
            await eventually(lambda seen=seen: _has_begun(model, seen + 3), within=30)  # type: ignore[misc]
            os.kill(supervisors[-1].pools[0], signal.SIGKILL)
        if number < 3:
            supervisors[-1].kill_all()
    try:
        for job in jobs:
            row = await has_state(app, job, "done", within=60)
            assert row["attempt"] == 0
    finally:
        for supervisor in supervisors:
            supervisor.end()
    assert await app.fetchval("select count(*) from pushq.jobs where queue = 'foreman'") == 60


async def test_sigterm_tells_a_caller_whose_answer_takes_longer_that_its_job_goes_on(
    app: Connection, database_url: str
) -> None:
    with started(database_url) as server:
        async with httpx.AsyncClient(base_url=server.base, timeout=30, trust_env=False) as http:  # type: ignore[attr-defined]
            waiting = asyncio.ensure_future(http.post("/api/chat", json={"model": "llama"}))
            await eventually(
                lambda: app.fetchval("select count(*) from pushq.jobs_unfinished where waiters is not null")
            )
            server.terminate()
            answer = await waiting
            assert answer.status_code == 503
            assert "The server stops. The job goes on" in answer.json()["error"]
            assert await asyncio.to_thread(server.wait, 10) == 0
    assert (await get(app, answer.json()["job_id"]))["state"] == "queued"


def run(url: str | None, cwd: Path, until: str = "", **variables: str) -> tuple[int, str]:
    """The exit code of run.sh, and what run.sh said. until: a line at which Ctrl-C is pressed."""
    with subprocess.Popen(
        [FOLDER / "run.sh"],
        env=environment(url) | {"PYTHON": sys.executable} | variables,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout
        said = ""
        for line in running.stdout:
            said += line
            if until and until in line:
                running.send_signal(signal.SIGINT)
        return running.wait(30), said


def test_the_show_runs_from_any_directory_and_leaves_nothing(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="pushq-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)  # PostgreSQL's user gets in
        exit_code, told = run(None, tmp_path, TMPDIR=directory)
        assert exit_code == 0, told
        assert [*tmp_path.iterdir(), *Path(directory).iterdir()] == []
    for said in ("first in, first out:", "by affinity, turns of", "No wait is longer than"):
        assert said in told


async def test_the_show_ends_at_ctrl_c_and_leaves_a_given_database_as_it_was(
    migrated: Connection, migrated_url: str, tmp_path: Path
) -> None:
    exit_code, told = await asyncio.to_thread(run, migrated_url, tmp_path, "first in, first out:")
    assert exit_code == 130, told
    assert "nothing is left running" in told
    assert "Traceback" not in told
    assert await migrated.fetchval("select to_regclass('public.jobs') is null")
    for table in ("jobs", "supervisors"):
        assert await migrated.fetchval(f"select count(*) from pushq.{table}") == 0
