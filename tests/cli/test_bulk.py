"""Retry and cancel by filter: counted first, in short transactions, stopped anywhere without harm."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.support.commands import invoke
from tests.support.jobs import Connection, count, insert
from tests.support.supervisors import ROOT, environment
from tests.support.waiting import eventually

FAILED = """
insert into pushq.jobs (task, queue, status, attempt, failures, unique_key, started_at, finished_at, finished_on)
select 'mail', 'q', 'failed', 5, 5, $2, now(), now(), pushq.current_day() from generate_series(1, $1)
"""


async def test_failed_jobs_of_a_task_are_retried_at_once_and_no_others(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(FAILED, 250, None)
    [other] = await insert(connection, "other")
    await connection.execute("select pushq.end_jobs($1, $2, null, null, '{failed}', null, null, null)", [other], [None])

    ended = invoke("jobs", "retry", "--status", "failed", "--task", "mail", "--yes", "--json", url=database_url)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == {"did": "queued", "jobs": 250}
    assert await count(connection, "status = 'queued' and failures = 0 and task = 'mail'") == 250
    assert await count(connection, "status = 'failed' and task = 'other'") == 1


async def test_without_a_terminal_the_count_is_told_and_nothing_is_changed(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(FAILED, 3, None)
    ended = invoke("jobs", "retry", "--status", "failed", url=database_url)

    assert "3 jobs would be changed; --yes does it without a question." in ended.stderr
    assert (ended.exit_code, await count(connection, "status = 'failed'")) == (2, 3)


async def test_unfinished_jobs_of_a_queue_are_cancelled(database_url: str, connection: Connection) -> None:
    await insert(connection, "mail", 120, queue="q")
    await insert(connection, "mail", 5, queue="q", priority=3)
    await insert(connection, "mail", 7, queue="other")
    await connection.execute(
        "update pushq.jobs_unfinished set status = 'running', token = gen_random_uuid(), supervisor = 's', pool = 1, "
        "started_at = now() where id in (select id from pushq.jobs_unfinished where queue = 'q' limit 3)"
    )
    ended = invoke("jobs", "cancel", "--queue", "q", "--yes", url=database_url)

    assert ended.stdout.splitlines() == ["did        jobs", "cancelled   125"]
    assert await count(connection, "status = 'cancelled'") == 125
    assert await count(connection, "status = 'queued'") == 7


async def test_a_job_that_cannot_be_retried_is_counted_apart_with_exit_code_1(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(FAILED, 2, "key")
    ended = invoke("jobs", "retry", "--status", "failed", "--yes", "--json", url=database_url)

    did = {row["did"]: row["jobs"] for row in map(json.loads, ended.stdout.splitlines())}
    assert (did, ended.exit_code) == ({"queued": 1, "unique_key is taken": 1}, 1)


@pytest.mark.parametrize("verb", ["retry", "cancel"])
def test_a_filter_that_matches_nothing_says_so(database_url: str, verb: str) -> None:
    ended = invoke("jobs", verb, "--status", "queued", "--task", "none", url=database_url)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", "No jobs match.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["retry"], "Name jobs by id, or choose them by"),
        (["cancel"], "Name jobs by id, or choose them by"),
        (["cancel", "0192f0c1-0000-7000-8000-000000000000", "--task", "x"], "Name jobs by id, or choose them by"),
        (["retry", "--task", "x"], "Say which jobs to retry: --status failed, cancelled, succeeded or queued."),
        (["retry", "--status", "running"], "Say which jobs to retry"),
        (["cancel", "--status", "failed"], "A job that has failed cannot be cancelled"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(arguments: list[str], sentence: str) -> None:
    ended = invoke("jobs", *arguments)
    assert sentence in ended.stderr
    assert ended.exit_code == 2


async def test_ctrl_c_stops_between_transactions_and_says_how_far_it_came(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(FAILED, 20_000, None)
    changing = subprocess.Popen(  # noqa: ASYNC220 - a test's loop has nothing else to do
        [sys.executable, "-m", "pushq", "jobs", "retry", "--status", "failed", "--yes"],
        env=environment(database_url),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    await eventually(lambda: connection.fetchval("select exists (select from pushq.jobs_unfinished)"))
    changing.send_signal(signal.SIGINT)
    _, errors = changing.communicate(timeout=20)

    queued = await count(connection, "status = 'queued'")
    assert (changing.returncode, "Traceback" in errors) == (1, False), errors
    assert await count(connection, "status = 'failed'") == 20_000 - queued > 0
    said = int(errors.split("Stopped after ")[1].split(" of ")[0].replace(",", ""))
    assert said <= queued <= said + 100
