"""The app's middleware is around each attempt, hears how the attempt ended, and cannot make an error a success."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising

TASKS = "tests.support.lifespans:tasks"


async def test_handlers_see_what_the_middleware_has_set_and_the_middleware_sees_how_they_end(
    database_url: str, connection: Connection, diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_MIDDLEWARE", "passes")
    with supervising(database_url, tasks=TASKS) as supervisor:
        ended = {}
        for task in ("tenant", "tenant.thread", "raise", "raise.thread", "cancel", "retry.thread", "sleep"):
            before = len(diary.read_text().splitlines())
            (row,) = await finished(connection, *await insert(connection, task))
            ended[task] = row["status"], row["result"] or row["error"], diary.read_text().splitlines()[before:]
        assert "pushq.task.tenant: for set for tenant as tenant id=" in supervisor.said

    assert ended == {
        "tenant": ("succeeded", '"set for tenant as tenant"', ["saw success"]),
        "tenant.thread": ("succeeded", '"set for tenant.thread as tenant.thread"', ["saw success"]),
        "raise": ("failed", "ValueError: no", ["saw ValueError"]),
        "raise.thread": ("failed", "ValueError: no", ["saw ValueError"]),
        "cancel": ("cancelled", "not needed", ["saw Cancel"]),
        "retry.thread": ("succeeded", '"at last"', ["saw Retry", "saw success"]),
        "sleep": ("failed", "TimeoutError: the attempt took longer than 0.2 s", ["saw CancelledError"]),
    }


ERRORS = {  # what the middleware does, and a task's error then
    ("swallows", "raise"): "ValueError: no",
    ("replaces", "raise"): "LookupError: another",
    ("raises before", "raise"): "KeyError: 'before'",
    ("raises after", "tenant"): "KeyError: 'after'",
}


@pytest.mark.usefixtures("diary")
@pytest.mark.parametrize(("does", "task"), ERRORS)
async def test_what_a_middleware_raises_is_the_attempt_s_error_and_what_it_swallows_counts(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, does: str, task: str
) -> None:
    monkeypatch.setenv("TEST_MIDDLEWARE", does)
    with supervising(database_url, tasks=TASKS):
        jobs = [*await insert(connection, task, max_attempts=1)]
        jobs += await insert(connection, f"{task}.thread", max_attempts=1)
        rows = await finished(connection, *jobs)
    assert [(row["status"], row["error"]) for row in rows] == [("failed", ERRORS[does, task])] * 2
