"""Schedules run: each slot has one job, whatever dies, and a change is heard without a poll."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.clocks import wrong_clock
from tests.support.commands import invoke
from tests.support.jobs import Connection, count, finished, has_count
from tests.support.schedules import fall_due, has_error, has_next, have_slots, row_of, slots_of, write
from tests.support.supervisors import supervising
from tests.support.waiting import eventually


async def test_a_schedule_runs_and_the_bell_tells_of_each_change(database_url: str, connection: Connection) -> None:
    with supervising(database_url, SWEEP_INTERVAL="3600", POLL_INTERVAL="0"):
        await write(connection, "report", cron="30 2 * * *", payload='{"value": 1}')
        await has_next(connection, "report")
        slot = await fall_due(connection, "report")
        await have_slots(connection, "report")
        [job] = await finished(connection, await connection.fetchval("select id from pushq.jobs"))
        assert (job["run_at"], job["result"], job["correlation_id"]) == (slot, '{"value": 1}', "schedule report")

        await connection.execute("update pushq.schedules set cron = 'never'")
        assert "has not five fields" in await has_error(connection, "report")
        await connection.execute("update pushq.schedules set cron = null, every = '1 second'")
        await have_slots(connection, "report", 2)
        await connection.execute("delete from pushq.schedules")
        assert await write(connection, "again", every=timedelta(seconds=1))
        await have_slots(connection, "again", 2)


async def test_with_polls_alone_a_schedule_is_found(database_url: str, connection: Connection) -> None:
    with supervising(database_url, WAKE="poll", POLL_INTERVAL="0.2"):
        await write(connection, "report")
        await has_next(connection, "report")
        await fall_due(connection, "report")
        await have_slots(connection, "report")


async def test_a_slot_has_one_job_while_supervisors_are_killed_and_started(
    database_url: str, connection: Connection
) -> None:
    names = [f"s{number}" for number in range(30)]
    for name in names:
        await write(connection, name, every=timedelta(seconds=1), missed="all")
    with supervising(database_url) as first, supervising(database_url), supervising(database_url):
        for name in names:
            await have_slots(connection, name, 2)
        first.kill_all()
        with supervising(database_url) as late:
            await have_slots(connection, "s0", len(await slots_of(connection, "s0")) + 2)
            os.kill(late.process.pid, signal.SIGSTOP)  # as a host that is frozen
            await have_slots(connection, "s0", len(await slots_of(connection, "s0")) + 2)
            os.kill(late.process.pid, signal.SIGCONT)
            await have_slots(connection, "s0", len(await slots_of(connection, "s0")) + 2)
    await connection.execute("update pushq.schedules set paused_at = now()")
    for name in names:
        found = await slots_of(connection, name)
        assert all(other - one == timedelta(seconds=1) for one, other in pairwise(found)), name
        assert (await row_of(connection, name))["last_at"] == found[-1]


async def test_a_job_of_a_paused_queue_or_an_unknown_task_waits_and_the_list_says_why(
    database_url: str, connection: Connection
) -> None:
    await write(connection, "paused", queue="mail")
    await write(connection, "unknown", task="eco")
    await connection.execute("select pushq.pause('mail')")
    with supervising(database_url, "--queue", "default", "--queue", "mail"):
        for name in ("paused", "unknown"):
            await has_next(connection, name)
            await fall_due(connection, name)
            await have_slots(connection, name)
        shown = invoke("schedules", url=database_url).stdout
        assert "queue 'mail' is paused" in shown
        assert "no supervisor has ever known a task 'eco'; did you mean 'echo'?" in shown
        assert await count(connection, "status = 'queued'") == 2
        await connection.execute("select pushq.resume('mail')")
        await has_count(connection, 1, "status = 'succeeded'")


@pytest.mark.parametrize("ahead", [timedelta(days=2), timedelta(days=-2)], ids=["ahead", "behind"])
async def test_the_clock_of_a_host_does_not_matter(
    database_url: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    for name, value in wrong_clock(ahead.total_seconds(), tmp_path).items():
        monkeypatch.setenv(name, value)
    await write(connection, "daily", cron="0 0 * * *")
    await write(connection, "often", every=timedelta(seconds=1))
    with supervising(database_url):
        await have_slots(connection, "often", 3)
        row = await has_next(connection, "daily")
    assert timedelta(0) < row["next_at"] - datetime.now(UTC) < timedelta(days=1)
    assert await slots_of(connection, "daily") == []
    late = "select min(enqueued_at - run_at), max(enqueued_at - run_at) from pushq.jobs"
    least, most = await connection.fetchrow(late) or (None, None)
    assert least is not None
    assert most is not None
    assert timedelta(0) <= least <= most < timedelta(hours=1)


# Declared in code -----------------------------------------------------------------------------------------------

APP = """
from datetime import timedelta

from pushq import Tasks

tasks = Tasks()


{schedules}
@tasks.register("report.build", queue="reports")
async def build(day: str = "today") -> str:
    return day
"""
DAILY = '@tasks.schedule("0 2 * * *", tz="Europe/Berlin")\n'
OFTEN = '@tasks.schedule(every=timedelta(seconds=1), name="often", payload={"day": "monday"}, missed="skip")\n'


@contextmanager
def declaring(url: str, directory: Path, schedules: str) -> Iterator[None]:
    """A supervisor whose code declares schedules."""
    (directory / "reports.py").write_text(APP.format(schedules=schedules))
    with supervising(url, tasks="reports:tasks", directory=str(directory), POLL_INTERVAL="0"):
        yield


async def test_a_schedule_that_code_declares_is_a_row_and_runs(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    with declaring(database_url, tmp_path, DAILY + OFTEN):
        await has_count(connection, 1, "result = '\"monday\"'")
        row = await has_next(connection, "report.build")
    assert (row["cron"], row["zone"], row["task"], row["queue"]) == (
        "0 2 * * *", "Europe/Berlin", "report.build", "reports",
    )  # fmt: skip
    assert row["declared_at"]
    often = await row_of(connection, "often")
    assert (often["every"], often["missed"], often["payload"]) == (timedelta(seconds=1), "skip", '{"day": "monday"}')


async def test_a_new_start_leaves_a_pause_and_writes_what_the_code_says_now(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    with declaring(database_url, tmp_path, DAILY):
        before = await has_next(connection, "report.build")
    assert invoke("schedules", "pause", "report.build", url=database_url).exit_code == 0
    paused = await row_of(connection, "report.build")
    with declaring(database_url, tmp_path, DAILY):
        assert await row_of(connection, "report.build") == paused  # nor is the row written anew
    with declaring(database_url, tmp_path, DAILY.replace("0 2", "0 3")):
        row = await row_of(connection, "report.build")
        assert (row["cron"], row["paused_at"]) == ("0 3 * * *", paused["paused_at"])
        assert invoke("schedules", "resume", "report.build", url=database_url).exit_code == 0
        resumed = await has_next(connection, "report.build")
    assert resumed["next_at"] != before["next_at"]
    assert resumed["declared_at"] == before["declared_at"]


async def test_a_declaration_that_disappears_is_left_and_shown_and_can_be_removed(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    with declaring(database_url, tmp_path, DAILY + OFTEN):
        await have_slots(connection, "often")
        assert "declared in code" not in invoke("schedules", url=database_url).stdout
    with declaring(database_url, tmp_path, DAILY):
        before = len(await slots_of(connection, "often"))
        await have_slots(connection, "often", before + 1)
        shown = invoke("schedules", url=database_url).stdout
        [line] = [line for line in shown.splitlines() if "declared in code" in line]
        assert re.match(r"often .*; `pushq schedules remove` removes it", line)
        assert invoke("schedules", "remove", "often", url=database_url).exit_code == 0
        assert await row_of(connection, "often") is None


async def test_a_supervisor_that_was_declared_dead_declares_its_schedules_again(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    with declaring(database_url, tmp_path, DAILY):
        declared = "select exists (select from pushq.supervisors where schedules = '{report.build}')"
        await eventually(lambda: connection.fetchval(declared))
        await connection.execute("delete from pushq.supervisors")
        await eventually(lambda: connection.fetchval(declared), within=20)
