"""pushq sweep: the sweeper by hand, where no supervisor is left to do it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.support.commands import invoke
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
    assert set(did) == {"dead", "requeued", "failed", "made", "retired", "dropped", "purged", "folded"} | {
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
