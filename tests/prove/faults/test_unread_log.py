"""Nobody reads the log any more: the reader of the pipe has ended, or stands still."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.supervisors import QUICK, ROOT, environment
from tests.support.waiting import eventually

TASKS = "tests.prove.faults.handlers:tasks"
GRACE = float(QUICK["SHUTDOWN_TIMEOUT"])


@contextmanager
def supervising_into_a_pipe(
    url: str, tasks: str = "tests.support.handlers:tasks"
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process, and the end of its standard error."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "pushq", "supervise", tasks, "--http-port", "0"],
        env=environment(url, **QUICK),
        cwd=ROOT,
        stderr=writer,
        start_new_session=True,
    )
    os.close(writer)
    os.set_blocking(reader, False)
    try:
        yield process, reader
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_log_that_nobody_reads_costs_no_job_and_no_drain(
    database_url: str, connection: Connection, is_gone: bool
) -> None:
    """Six hundred failures are more than a pipe holds."""
    with supervising_into_a_pipe(database_url) as (process, reader):
        await _is_up(reader)
        beside = await insert(connection, "sleep", 3, payload={"seconds": 2}, max_attempts=1)
        await has_count(connection, 3, "status = 'running'")
        if is_gone:
            os.close(reader)
        failing = await insert(connection, "raise.text", 600, payload={"text": "1"})
        ended = await finished(connection, *beside, *failing)
        (running,) = await insert(connection, "sleep", payload={"seconds": 0.5})
        await has_count(connection, 1, "status = 'running'")
        stopped_at = time.monotonic()
        process.terminate()
        code = await asyncio.to_thread(process.wait, 20)
        seconds = time.monotonic() - stopped_at
        rows = await finished(connection, running)

    assert (code, seconds < GRACE + 3) == (0, True)
    assert {(row["status"], row["attempt"], row["crashes"]) for row in ended[:3]} == {("succeeded", 1, 0)}
    assert {(row["status"], row["attempt"], row["crashes"]) for row in ended[3:]} == {("failed", 1, 0)}
    assert (rows[0]["status"], rows[0]["attempt"]) == ("succeeded", 1)


async def test_what_libraries_log_where_nobody_reads_it_costs_no_job(database_url: str, connection: Connection) -> None:
    with supervising_into_a_pipe(database_url, tasks=TASKS) as (process, reader):
        await _is_up(reader)
        (logging,) = await insert(connection, "log", payload={"lines": 2000}, max_attempts=1)
        (row,) = await finished(connection, logging)
        process.terminate()
        code = await asyncio.to_thread(process.wait, 20)

    assert (row["status"], row["attempt"], row["crashes"], code) == ("succeeded", 1, 0, 0)


async def test_a_pool_that_ends_by_a_fault_ends_though_nobody_reads_its_traceback(
    database_url: str, connection: Connection
) -> None:
    with supervising_into_a_pipe(database_url, tasks=TASKS) as (process, reader):
        await _is_up(reader)
        (stopping,) = await insert(connection, "stop.loop")
        (row,) = await finished(connection, stopping)
        assert process.poll() is None

    assert (row["status"], row["attempt"], row["crashes"]) == ("failed", 3, 3)


async def _is_up(reader: int) -> None:
    said = bytearray()
    await eventually(lambda: _says(reader, b"bell up", said), within=30)


async def _says(reader: int, words: bytes, said: bytearray) -> bool:
    try:
        said += os.read(reader, 65536)
    except BlockingIOError:
        return False
    return words in said
