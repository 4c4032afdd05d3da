"""A supervisor that has nothing to do takes next to nothing of its machine."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising

WATCHED = 5.0
MOST_WAKEUPS = 8
"""In WATCHED seconds, of a process. A timer of half a second would make 10."""


async def test_an_idle_supervisor_and_its_pool_sleep_but_for_polls_and_heartbeats(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, HEARTBEAT_INTERVAL="10", LEASE="60", SWEEP_INTERVAL="15") as supervisor:
        await finished(connection, *await insert(connection, "echo"))
        supervisor.get("/metrics")  # imports the server, and serves
        processes = [supervisor.process.pid, *supervisor.pools]
        await asyncio.sleep(1)  # what follows the job: outcomes, figures
        before = [_wakeups(process) for process in processes]
        await asyncio.sleep(WATCHED)
        woken = [_wakeups(process) - count for process, count in zip(processes, before, strict=True)]

        assert len(woken) == 2
        assert max(woken) <= MOST_WAKEUPS, woken


def test_the_date_of_an_answer_is_the_present(database_url: str) -> None:
    with supervising(database_url) as supervisor:
        supervisor.get("/healthz")
        time.sleep(2)  # a date of the first answer would be old
        with urllib.request.urlopen(f"http://127.0.0.1:{supervisor.port}/healthz", timeout=10) as answer:
            date = parsedate_to_datetime(answer.headers["date"])
        assert datetime.now(UTC) - date < timedelta(seconds=2)


def _wakeups(process: int) -> int:
    """How often the threads of a process have gone to sleep."""
    threads = [thread.read_text() for thread in Path(f"/proc/{process}/task").glob("*/status")]
    return sum(int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)[0]) for text in threads)
