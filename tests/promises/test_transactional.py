"""The writes of a transactional handler and the end of its job are there together, or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from pushq import Queue
from tests.support.jobs import Connection, count, finished, has_count, insert, row_of
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.transactional import MAKE
from tests.support.waiting import eventually

TASKS = "tests.support.transactional:tasks"
TALLIED = "select sum(jobs) from (select * from pushq.tallies union all select * from pushq.tally_log) as counted"


@pytest.fixture
async def connection(connection: Connection) -> Connection:
    """An app's connection, to a database with tables of the app's."""
    await connection.execute(MAKE)
    return connection


@pytest.fixture
def supervisor(connection: Connection, database_url: str) -> Iterator[RunningSupervisor]:  # noqa: ARG001 - makes tables
    """A supervisor that never polls, with two workers, of which one may hold a transaction open."""
    with supervising(database_url, "--concurrency=2", tasks=TASKS, POLL_INTERVAL="0", LOG_LEVEL="debug") as supervisor:
        yield supervisor


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """A file for which a handler waits, with its transaction open."""
    return tmp_path / "sign"


async def effects(connection: Connection, job: UUID) -> list[str]:
    rows = await connection.fetch("select note from public.effects where job = $1 order by number", job)
    return [row["note"] for row in rows]


async def holds_open(connection: Connection) -> bool:
    """Whether a handler's transaction waits for its handler, which has done something in the transaction."""
    return bool(
        await connection.fetchval(
            "select exists (select from pg_stat_activity where application_name like '%: handlers' "
            "and state = 'idle in transaction' and query not ilike 'begin%' and datname = current_database())"
        )
    )


async def handlers_connections(connection: Connection) -> int:
    return int(
        await connection.fetchval(
            "select count(*) from pg_stat_activity where application_name like '%: handlers' "
            "and datname = current_database()"
        )
    )


async def test_what_a_handler_writes_is_committed_in_the_transaction_that_ends_its_job(
    connection: Connection, supervisor: RunningSupervisor
) -> None:
    jobs = await insert(connection, "tx.write", 5, payload={"note": "once"})
    rows = await finished(connection, *jobs)

    assert [(row["status"], json.loads(row["result"]), row["attempt"]) for row in rows] == [
        ("succeeded", {"wrote": "once"}, 1)
    ] * 5
    in_one = await connection.fetchval(
        "select count(*) from public.effects as effect join pushq.jobs as job on job.id = effect.job "
        "where job.xmin::text = (effect.made_in::text::bigint & 4294967295)::text"
    )
    assert in_one == 5
    assert await connection.fetchval(TALLIED) == 5
    await eventually(lambda: _said(supervisor, "job ended", 5))
    assert "connections=5" in supervisor.said
    assert 1 <= await handlers_connections(connection) <= 2


async def _said(supervisor: RunningSupervisor, words: str, times: int = 1) -> bool:
    return supervisor.said.count(words) >= times


@pytest.mark.parametrize(
    ("then", "status", "failures", "says"),
    [
        ("raise", "failed", 2, "ValueError: no"),
        ("retry", "queued", 0, None),
        ("cancel", "cancelled", 0, "no need"),
        ("detach", "failed", 1, "cannot return Detach"),
        ("unstorable", "failed", 1, "ResultError"),
        ("abort", "failed", 2, "An earlier statement of the handler's has failed"),
        ("close", "failed", 2, "was closed before the handler returned"),
        ("at work", "failed", 2, "await everything that uses it"),
        ("defer", "failed", 2, "violates foreign key constraint"),
        ("rollback", "failed", 2, "by a COMMIT or ROLLBACK of its own"),
        ("role", "failed", 2, "permission denied"),
    ],
)
@pytest.mark.usefixtures("supervisor")
async def test_what_a_handler_has_written_is_rolled_back_unless_it_returns(
    connection: Connection, then: str, status: str, failures: int, says: str | None
) -> None:
    (job,) = await insert(connection, "tx.then", payload={"then": then})
    await has_count(connection, 1, f"status = '{status}' and attempt = {max(1, failures)}")

    row = await row_of(connection, job)
    assert row["failures"] == failures
    assert (says or "") in (row["error"] or "")
    assert await effects(connection, job) == []
    assert not await holds_open(connection)


@pytest.mark.parametrize("then", ["commit", "anew"])
@pytest.mark.usefixtures("supervisor")
async def test_a_handler_that_commits_by_itself_is_told_so_and_pushq_commits_nothing(
    connection: Connection, then: str
) -> None:
    (job,) = await insert(connection, "tx.then", payload={"then": then})
    (row,) = await finished(connection, job)

    assert (row["status"], row["failures"]) == ("failed", 2)
    assert "by a COMMIT or ROLLBACK of its own" in row["error"]
    assert await effects(connection, job) == [then, then]


@pytest.mark.usefixtures("supervisor")
async def test_a_handler_that_asks_for_no_connection_takes_none(connection: Connection) -> None:
    (job,) = await insert(connection, "tx.nothing")
    (row,) = await finished(connection, job)

    assert (row["status"], json.loads(row["result"])) == ("succeeded", "asked for nothing")
    assert await handlers_connections(connection) == 0


@pytest.mark.usefixtures("supervisor")
async def test_a_task_that_is_not_transactional_has_no_connection(connection: Connection) -> None:
    (job,) = await insert(connection, "untransactional", max_attempts=1)
    (row,) = await finished(connection, job)

    assert "register the task with transactional=True" in row["error"]


@pytest.mark.usefixtures("supervisor")
async def test_a_handler_has_one_connection_and_savepoints(connection: Connection) -> None:
    twice, savepoint = [(await insert(connection, task))[0] for task in ("tx.twice", "tx.savepoint")]
    rows = await finished(connection, twice, savepoint)

    assert json.loads(rows[0]["result"]) is True
    assert await effects(connection, savepoint) == ["kept"]


# Fenced -------------------------------------------------------------------------------------------------------------


async def test_the_row_of_a_job_is_not_locked_while_its_handler_runs(
    connection: Connection, supervisor: RunningSupervisor, sign: Path
) -> None:
    (job,) = await insert(connection, "tx.until", payload={"path": str(sign)})
    await eventually(lambda: holds_open(connection))

    await connection.execute("select from pushq.jobs where id = $1 for update nowait", job)
    sign.touch()
    (row,) = await finished(connection, job)
    assert row["status"] == "succeeded"
    assert "outcome refused" not in supervisor.said


@pytest.mark.parametrize("change", ["select pushq.change($1, 'running', 'queued')", "select pushq.cancel($1)"])
async def test_a_handler_whose_job_was_taken_away_commits_nothing(
    connection: Connection, supervisor: RunningSupervisor, change: str, sign: Path
) -> None:
    (job,) = await insert(connection, "tx.until", payload={"path": str(sign)})
    await eventually(lambda: holds_open(connection))
    await connection.execute(change, job)
    await eventually(lambda: _said(supervisor, "job recalled"))
    was = await row_of(connection, job)
    assert await effects(connection, job) == []
    sign.touch()
    (row,) = await finished(connection, job)
    if was["status"] == "cancelled":
        assert await effects(connection, job) == []
    else:
        assert (row["attempt"], await effects(connection, job)) == (2, ["holds"])


async def test_an_end_that_comes_too_late_rolls_the_handler_s_writes_back(
    connection: Connection, database_url: str, sign: Path
) -> None:
    """The pool hears of no recall, since it only polls."""
    with supervising(database_url, tasks=TASKS, WAKE="poll", POLL_INTERVAL="0.05", LOG_LEVEL="debug") as supervisor:
        (job,) = await insert(connection, "tx.until", payload={"path": str(sign)})
        await eventually(lambda: holds_open(connection))
        assert await connection.fetchval("select pushq.cancel($1)", job) == "cancelled"
        sign.touch()
        await eventually(lambda: _said(supervisor, "outcome refused"))

        assert await effects(connection, job) == []
        assert (await row_of(connection, job))["status"] == "cancelled"


async def test_a_handler_that_goes_on_after_a_cancel_by_hand_commits_nothing(
    connection: Connection, supervisor: RunningSupervisor
) -> None:
    (job,) = await insert(connection, "tx.swallow")
    await eventually(lambda: holds_open(connection))
    await connection.execute("select pushq.cancel($1)", job)
    await eventually(lambda: _said(supervisor, "job recalled"))

    assert await effects(connection, job) == []


# Timeouts, drains, deaths -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("supervisor")
async def test_a_timeout_ends_the_statement_in_progress_and_rolls_back(connection: Connection) -> None:
    (job,) = await insert(
        connection, "tx.wait", payload={"seconds": 60}, timeout=timedelta(seconds=0.5), max_attempts=1
    )
    (row,) = await finished(connection, job)

    assert "TimeoutError" in row["error"]
    assert await effects(connection, job) == []
    assert not await _is_at(connection, "%pg_sleep%")
    (other,) = await insert(connection, "tx.write")
    assert [row["status"] for row in await finished(connection, other)] == ["succeeded"]


async def test_a_drain_rolls_back_what_it_stops_and_gives_the_job_back_at_no_charge(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url, tasks=TASKS, SHUTDOWN_TIMEOUT="0.5") as supervisor:
        (job,) = await insert(connection, "tx.wait", payload={"seconds": 60})
        await has_count(connection, 1, "status = 'running'")
        await eventually(lambda: _is_at(connection, "%pg_sleep%"))
        assert await asyncio.to_thread(supervisor.stop) == 0

    row = await row_of(connection, job)
    assert (row["status"], row["failures"], row["crashes"]) == ("queued", 0, 0)
    assert await effects(connection, job) == []


async def _is_at(connection: Connection, statement: str) -> bool:
    return bool(
        await connection.fetchval(
            "select exists (select from pg_stat_activity where query like $1 and state = 'active' "
            "and datname = current_database() "
            "and application_name like '%: handlers')",
            statement,
        )
    )


async def _is_not_at(connection: Connection, statement: str) -> bool:
    return not await _is_at(connection, statement)


@pytest.mark.usefixtures("supervisor")
async def test_a_handler_whose_process_is_killed_has_written_nothing_and_writes_once_when_it_runs_again(
    connection: Connection,
) -> None:
    (job,) = await insert(connection, "tx.die", payload={"times": 1})
    (row,) = await finished(connection, job)

    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 2, 1)
    assert await effects(connection, job) == ["dies"]


@pytest.mark.usefixtures("supervisor")
async def test_a_suspect_is_transactional_too(connection: Connection) -> None:
    (job,) = await insert(connection, "tx.die", payload={"times": 2})
    (row,) = await finished(connection, job)

    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 3, 2)
    assert await effects(connection, job) == ["dies"]


async def test_a_killed_pool_s_statement_is_ended_by_the_server(
    connection: Connection, supervisor: RunningSupervisor
) -> None:
    (job,) = await insert(connection, "tx.wait", payload={"seconds": 3600})
    await eventually(lambda: _is_at(connection, "%pg_sleep%"))
    for pool in supervisor.pools:
        os.kill(pool, signal.SIGKILL)

    (row,) = await finished(connection, job)
    assert (row["attempt"], await effects(connection, job)) == (2, ["waits"])
    await eventually(lambda: _is_not_at(connection, "%pg_sleep%"))


@pytest.mark.parametrize("end", ["pg_terminate_backend", "idle_in_transaction_session_timeout"])
async def test_a_handler_whose_connection_the_database_closes_is_told_so_and_tried_again(
    connection: Connection, database_url: str, end: str, sign: Path
) -> None:
    its_role = await connection.fetchval("select quote_ident(current_user)")
    its_database = await connection.fetchval("select quote_ident(current_database())")
    limit = "300ms" if end.startswith("idle") else "0"
    await connection.execute(
        f"alter role {its_role} in database {its_database} set idle_in_transaction_session_timeout = '{limit}'"
    )
    try:
        with supervising(database_url, tasks=TASKS):
            (job,) = await insert(connection, "tx.until", payload={"path": str(sign)}, max_attempts=1)
            await eventually(lambda: holds_open(connection))
            if not limit.startswith("300"):
                await connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%: handlers' "
                    "and datname = current_database()"
                )
            await eventually(lambda: _is_gone(connection))
            sign.touch()
            (row,) = await finished(connection, job)
    finally:
        await connection.execute(f"alter role {its_role} in database {its_database} reset all")

    assert (row["status"], row["failures"]) == ("failed", 1)
    assert "was closed before the handler returned" in row["error"]
    assert await effects(connection, job) == []


async def _is_gone(connection: Connection) -> bool:
    return await handlers_connections(connection) == 0


# What belongs to a job ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.usefixtures("supervisor")
async def test_a_job_that_a_handler_inserts_comes_with_the_commit_and_rings(
    connection: Connection, raw: bool, sign: Path
) -> None:
    """No pool polls. The handler holds its transaction open for longer than claims look back at the least."""
    payload = {"task": "echo", "payload": {"a": 1}, "path": str(sign), "raw": raw}
    (job,) = await insert(connection, "tx.enqueue", payload=payload)
    await eventually(lambda: holds_open(connection))
    others = await insert(connection, "echo", 3)
    await finished(connection, *others)
    await asyncio.sleep(1.2)  # so that the job is older than the margin of a look at new jobs
    assert await count(connection, "task = 'echo'") == 3
    sign.touch()
    (row,) = await finished(connection, job)
    (inserted,) = await finished(connection, UUID(json.loads(row["result"])), within=5)

    assert inserted["status"] == "succeeded"


@pytest.mark.usefixtures("supervisor")
async def test_who_waits_is_told_of_the_end(connection: Connection, database_url: str, sign: Path) -> None:
    (job,) = await insert(connection, "tx.until", payload={"path": str(sign)})
    waits = asyncio.create_task(Queue().wait(job, url=database_url, timeout=20))
    await eventually(lambda: _has_waiters(connection, job))
    sign.touch()

    assert (await waits).result == "seen"


async def _has_waiters(connection: Connection, job: UUID) -> bool:
    return bool(await connection.fetchval("select waiters from pushq.jobs_unfinished where id = $1", job))


@pytest.mark.usefixtures("supervisor")
async def test_what_a_job_needs_is_free_with_the_commit_and_the_next_begins(connection: Connection) -> None:
    jobs = await insert(connection, "tx.write", 6, payload={}, limit_key="one at a time")
    rows = await finished(connection, *jobs)

    assert {row["status"] for row in rows} == {"succeeded"}
    at_once = await connection.fetchval(
        "select count(*) from pushq.jobs as one join pushq.jobs as other on one.id < other.id "
        "where one.started_at < other.finished_at and other.started_at < one.finished_at"
    )
    assert at_once == 0


@pytest.mark.usefixtures("supervisor")
async def test_progress_artifacts_events_and_tallies_are_those_of_any_job(connection: Connection) -> None:
    await connection.execute("update pushq.queues set all_events = true")
    (job,) = await insert(connection, "tx.progress")
    (row,) = await finished(connection, job)

    assert json.loads(row["progress"])["phase"] == "halfway"
    assert await connection.fetchval("select count(*) from pushq.artifacts where job_id = $1", job) == 1
    kinds = [one["kind"] for one in await connection.fetch("select kind from pushq.job_events where job_id = $1", job)]
    assert "succeeded" in kinds


# What handlers leave behind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    ["setting", "search path", "temporary table", "cursor", "lock", "savepoint", "listener", "connection", "statement"],
)
async def test_the_next_handler_finds_nothing_that_a_handler_has_left_on_the_connection(
    connection: Connection, database_url: str, what: str
) -> None:
    with supervising(database_url, "--concurrency=1", tasks=TASKS):
        (before,) = await insert(connection, "tx.look")
        await finished(connection, before)
        (leaves,) = await insert(connection, "tx.leave", payload={"what": what})
        await finished(connection, leaves)
        (after,) = await insert(connection, "tx.look")
        rows = await finished(connection, before, leaves, after)
    found: list[Any] = [json.loads(row["result"]) for row in rows]
    kept = found[2].pop("kept", "refused")

    assert (rows[1]["status"], kept) == ("succeeded", "refused")
    is_kept = found[0]["process"] == found[2]["process"]
    assert is_kept == (what not in ("temporary table", "listener"))
    assert found[2] | {"process": 0} == found[0] | {"process": 0}


@pytest.mark.usefixtures("supervisor")
async def test_a_handler_s_connection_has_the_settings_of_its_role(connection: Connection) -> None:
    (job,) = await insert(connection, "tx.look")
    (row,) = await finished(connection, job)
    found = json.loads(row["result"])

    assert found["search_path"] == await connection.fetchval("show search_path")
    assert (found["enable_seqscan"], found["isolation"]) == ("on", "read committed")
