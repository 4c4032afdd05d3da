"""What handlers share is there from before the first claim until after the last outcome. Its failure charges nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.supervisors import pushq, supervising
from tests.support.waiting import wait_until

TASKS = "tests.support.lifespans:tasks"


async def test_handlers_get_what_the_lifespan_yields_as_an_argument_and_by_their_job(
    database_url: str, connection: Connection, diary: Path
) -> None:
    with supervising(database_url, tasks=TASKS) as supervisor:
        jobs = await insert(connection, "greet", payload={"name": "Ada"})
        jobs += await insert(connection, "greet.thread", payload={"name": "Bob"})
        jobs += await insert(connection, "tenant")
        rows = await finished(connection, *jobs)
        assert supervisor.stop() == 0

    assert [row["error"] for row in rows] == [None] * 3
    assert [row["result"] for row in rows] == ['"hello Ada"', '"hello Bob"', '"set by the lifespan"']
    assert [line.split()[0] for line in diary.read_text().splitlines()] == ["enter", "leave", "left"]


@pytest.mark.usefixtures("diary")
async def test_a_resource_is_not_taken_from_the_payload(database_url: str, connection: Connection) -> None:
    with supervising(database_url, tasks=TASKS):
        (job,) = await insert(connection, "greet", payload={"name": "Eve", "shared": {"greeting": "mine"}})
        (row,) = await finished(connection, job)
    assert (row["status"], "shared" in row["error"]) == ("failed", True)


async def test_each_pool_has_a_lifespan_of_its_own_and_claims_nothing_before_it_is_entered(
    database_url: str, connection: Connection, diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_LIFESPAN", "hangs when entered")
    with supervising(database_url, "--processes", "2", tasks=TASKS, ready=False) as supervisor:
        await insert(connection, "tenant")
        wait_until(lambda: diary.read_text().count("enter") == 2)
        assert supervisor.get("/readyz")[0] == 503
        assert await count(connection, "status = 'queued' and attempt = 0") == 1
        assert supervisor.stop() == 0


async def test_the_lifespan_is_left_after_the_last_outcome_of_a_drain(
    database_url: str, connection: Connection, diary: Path
) -> None:
    with supervising(database_url, tasks=TASKS, SHUTDOWN_TIMEOUT="10") as supervisor:
        (job,) = await insert(connection, "long.thread")
        wait_until(lambda: "begun" in diary.read_text())
        supervisor.process.terminate()
        wait_until(lambda: "leave" in diary.read_text())
        assert await count(connection, "status = 'succeeded'") == 1
        assert supervisor.process.wait(10) == 0
    assert diary.read_text().split()[2:] == ["begun", "leave", "left"]
    assert [row["id"] for row in await finished(connection, job)] == [job]


@pytest.mark.parametrize("task", ["long", None], ids=["beside a handler that does not end", "idle"])
async def test_a_lifespan_that_cannot_be_left_is_cut_at_the_deadline(
    database_url: str, connection: Connection, diary: Path, monkeypatch: pytest.MonkeyPatch, task: str | None
) -> None:
    monkeypatch.setenv("TEST_LIFESPAN", "hangs when left")
    with supervising(database_url, tasks=TASKS, SHUTDOWN_TIMEOUT="1") as supervisor:
        if task:
            await insert(connection, task)
            wait_until(lambda: "begun" in diary.read_text())
        assert supervisor.stop(within=8) == 0
        assert "lifespan cut" in supervisor.said
    assert await count(connection, "status = 'queued' and crashes = 0") == (1 if task else 0)


@pytest.mark.usefixtures("diary")
async def test_a_lifespan_that_raises_at_the_start_ends_the_supervisor_with_its_traceback_and_a_sentence(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_LIFESPAN", "raises when entered")
    await insert(connection, "tenant")
    ended = pushq("supervise", TASKS, "--http-port", "0", url=database_url)
    assert ended.returncode == 1
    assert 'lifespans.py", line ' in ended.stderr
    assert "in shared" in ended.stderr
    (sentence,) = [line for line in ended.stderr.splitlines() if line.startswith("pushq: ")]
    assert sentence.startswith("pushq: The lifespan of the tasks raises ConnectionError: no such host, at tests/")
    assert await count(connection, "status = 'queued' and attempt = 0 and crashes = 0") == 1


@pytest.mark.usefixtures("diary")
async def test_a_lifespan_of_another_type_than_a_task_asks_for_is_refused_in_a_sentence(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_LIFESPAN", "misfits")
    ended = pushq("supervise", TASKS, "--http-port", "0", url=database_url)
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        "pushq: Task 'greet': parameter 'shared' needs a Shared, but the lifespan yields a str.\n"
    )


async def test_a_lifespan_that_breaks_while_jobs_run_ends_its_pool_and_charges_nobody(
    database_url: str, connection: Connection, diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_LIFESPAN", "breaks")
    with supervising(database_url, tasks=TASKS) as supervisor:
        (old,) = supervisor.pools
        await insert(connection, "long", 3)
        await has_count(connection, 3, "status = 'running'")
        broken = Path(f"{diary}.break")
        broken.touch()
        wait_until(lambda: "lifespan failed error=" in supervisor.said and "RuntimeError" in supervisor.said)
        broken.unlink()
        wait_until(lambda: supervisor.pools and supervisor.pools != [old])
        await has_count(connection, 3, "status = 'running' and attempt = 2")
        assert await count(connection, "crashes = 0 and failures = 0") == 3
        assert "requeued=0" in supervisor.said


@pytest.mark.usefixtures("diary")
async def test_a_lifespan_that_raises_when_it_is_left_loses_no_outcome(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_LIFESPAN", "raises when left")
    with supervising(database_url, tasks=TASKS) as supervisor:
        await finished(connection, *await insert(connection, "tenant", 5))
        assert supervisor.stop() == 0
        assert 'lifespan failed error="OSError: cannot be closed"' in supervisor.said
    assert await count(connection, "status = 'succeeded' and crashes = 0") == 5
