"""pushq sweep: the sweeper by hand, where no supervisor is left to do it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from datetime import date

import asyncpg
import pytest

from tests.support.commands import invoke
from tests.support.days import make_day
from tests.support.jobs import Connection, has_count, insert, row_of
from tests.support.supervisors import ROOT, environment, supervising
from tests.support.waiting import eventually

QUICKLY = ("sweep", "--lease", "1.5", "--heartbeat-interval", "0.5")


async def test_it_requeues_the_jobs_of_a_host_that_died(database_url: str, connection: Connection) -> None:
    with supervising(database_url) as supervisor:
        [job_id] = await insert(connection, "sleep", payload={"seconds": 60})
        await has_count(connection, 1, "status = 'running'")
        supervisor.kill_all()
    swept = invoke(*QUICKLY, "--json", url=database_url)

    assert (swept.exit_code, swept.stderr) == (0, "")
    did = json.loads(swept.stdout)
    assert set(did) == {"dead", "requeued", "failed", "made", "retired", "dropped", "purged", "stamped", "folded"} | {
        "artifacts",
        "troubles",
    }
    assert (len(did["dead"]), did["requeued"], did["failed"]) == (1, 1, 0)
    row = await row_of(connection, job_id)
    assert (row["status"], row["crashes"]) == ("queued", 1)


async def test_it_leaves_the_jobs_of_a_living_supervisor_alone(database_url: str, connection: Connection) -> None:
    with supervising(database_url):
        await insert(connection, "sleep", payload={"seconds": 60})
        await has_count(connection, 1, "status = 'running'")
        swept = invoke(*QUICKLY, url=database_url)

        assert "requeued  0\n" in swept.stdout
        await has_count(connection, 1, "status = 'running'")


@pytest.mark.parametrize("started", ["exec", "trap '' INT; exec"], ids=["by a shell", "by a script, with &"])
async def test_ctrl_c_ends_the_watching_without_a_traceback(
    database_url: str, connection: Connection, started: str
) -> None:
    watching = subprocess.Popen(  # noqa: ASYNC220 - a test's loop has nothing else to do
        ["sh", "-c", f"{started} '{sys.executable}' -m pushq sweep"],
        env=environment(database_url),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ours = "select true from pg_stat_activity where datname = current_database() and application_name = 'pushq sweep'"
    await eventually(lambda: connection.fetchval(ours))
    watching.send_signal(signal.SIGINT)
    output, errors = watching.communicate(timeout=20)

    assert (watching.returncode, output, "Traceback" in errors) == (1, "", False)


@pytest.mark.parametrize(
    ("lock", "says"),
    [
        ("lock table pushq.supervisors in access exclusive mode", "waits for a lock of pushq.supervisors, held by "),
        ("lock table only pushq.jobs in access share mode", "waits for the transaction of "),
    ],
)
async def test_who_holds_a_sweep_up_by_a_lock_is_told_within_seconds(
    database_url: str, connection: Connection, lock: str, says: str
) -> None:
    for day in (1, 2):  # the first is emptied, and its partition detached, once nobody else uses the table
        await make_day(connection, date(2001, 1, day))
    other = await asyncpg.connect(database_url, server_settings={"application_name": "a report"})
    transaction = other.transaction()
    await transaction.start()
    await other.execute(lock)
    sweeping = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pushq", *QUICKLY, env=environment(database_url), cwd=ROOT, stdout=-1, stderr=-1
    )
    assert sweeping.stderr
    told = (await asyncio.wait_for(sweeping.stderr.readline(), 30)).decode()
    assert f"{says}pid " in told
    assert "application a report, idle in transaction)." in told

    await transaction.rollback()
    _, errors = await asyncio.wait_for(sweeping.communicate(), 30)
    assert (sweeping.returncode, errors) == (0, b"")
    await other.close()
