"""docs/how-to/guests.md: the workers of the page run as they stand."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path

import asyncpg
import pytest

from tests.support.jobs import Connection, finished, insert
from tests.support.node import node_running
from tests.support.pages import Shell, blocks, section
from tests.support.roles import granted, url_as
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

PAGE = "how-to/guests.md"


async def test_the_worker_in_node_runs_jobs_tries_again_and_stops(connection: Connection, database_url: str) -> None:
    (program,) = blocks("js", section(PAGE, "Node.js"))
    good = await insert(connection, "image.resize", 3, queue="images", payload={"url": "a.png"})
    bad = await insert(connection, "image.resize", queue="images", max_attempts=1)
    await connection.execute("update pushq.jobs set payload = '{\"url\": null}' where id = $1", bad[0])
    program = program.replace("return { url", "if (url === null) throw new Error('no url'); return { url")
    with node_running(program, PUSHQ_DATABASE_URL=database_url) as node:
        rows = await finished(connection, *good, *bad)
        node.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(node.wait, 10) == 0

    by_id = {row["id"]: row for row in rows}
    assert {by_id[job]["status"] for job in good} == {"succeeded"}
    assert json.loads(by_id[good[0]]["result"]) == {"url": "a.png", "width": 100}
    assert (by_id[bad[0]]["status"], by_id[bad[0]]["error"]) == ("failed", "Error: no url")
    assert by_id[good[0]]["supervisor"].startswith("guest:")
    assert await connection.fetchval("select count(*) from pushq.supervisors") == 0


async def test_the_worker_in_shell_runs_a_job_a_call(
    connection: Connection, database_url: str, server_bin_directory: Path, tmp_path: Path
) -> None:
    (script,) = blocks("sh", section(PAGE, "A shell script"))
    (job,) = await insert(connection, "report", queue="reports", payload={"name": "O'Brien"})
    (tmp_path / "worker.sh").write_text(script)
    shell = Shell(database_url, server_bin_directory, tmp_path)
    await asyncio.to_thread(shell.run, "sh worker.sh")
    (row,) = await finished(connection, job)

    assert (row["status"], row["result"]) == ("succeeded", '"Report of O\'Brien"')
    with pytest.raises((subprocess.CalledProcessError, AssertionError)):
        await asyncio.to_thread(shell.run, "sh worker.sh")


async def test_the_handler_that_detaches_does(connection: Connection, database_url: str, tmp_path: Path) -> None:
    (code,) = blocks("python", section(PAGE, "Work that goes on elsewhere"))
    elsewhere = "async def start_elsewhere(model, **held):\n    print('held', held, flush=True)\n"
    (tmp_path / "training.py").write_text(f"{code}\n{elsewhere}")
    with supervising(database_url, tasks="training:tasks", directory=str(tmp_path)):
        (job,) = await insert(connection, "train", payload={"model": "m"})
        held = "select token from pushq.jobs where supervisor ~ '^guest:'"
        token = await eventually(lambda: connection.fetchval(held))
    assert await connection.fetchval("select status from pushq.jobs where id = $1", job) == "running"
    assert await connection.fetchval("select pushq.finish($1, $2, 'succeeded', '7')", job, token)
    (row,) = await finished(connection, job)
    assert row["result"] == "7"


async def test_the_worker_s_role_is_enough(connection: Connection, database_url: str) -> None:
    async with granted(connection) as roles:
        await connection.execute(f"create role guest_{roles.worker} login password 'secret' in role {roles.worker}")
        await insert(connection, "anything")
        guest = await asyncpg.connect(url_as(database_url, f"guest_{roles.worker}"))
        row = await guest.fetchrow("select * from pushq.take_next('default', 'me')")
        assert row
        assert await guest.fetchval("select pushq.extend($1, $2)", row["id"], row["token"])
        assert await guest.fetchval("select pushq.finish($1, $2, 'succeeded')", row["id"], row["token"])
        await guest.close()
        await connection.execute(f"drop role guest_{roles.worker}")
