"""The clock of a host is off by years, or a host sleeps and wakes: every instant and the fence are the database's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.clocks import wrong_clock
from tests.support.jobs import Connection, count, finished, has_count, insert, row_of
from tests.support.metrics import scrape
from tests.support.supervisors import QUICK, ROOT, RunningSupervisor, environment, launch, supervising
from tests.support.waiting import wait_until

LEASE, SWEEP = float(QUICK["LEASE"]), float(QUICK["SWEEP_INTERVAL"])
HOUR, DECADE = 3600.0, 10 * 365 * 86400.0
CLOCKS = {"decade_slow": -DECADE, "hour_slow": -HOUR, "hour_fast": HOUR, "decade_fast": DECADE}
"""Of each host: the queue that it serves, and by how many seconds its clock is ahead."""
LATE = 2.0
"""Seconds by which a loaded machine may be late."""


@pytest.mark.timeout(120)
async def test_results_instants_leases_and_metrics_are_as_ever_whatever_the_clocks_of_the_hosts_say(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        hosts = {queue: stack.enter_context(_host(database_url, queue, tmp_path)) for queue in CLOCKS}
        for host in hosts.values():
            host.wait_ready()
        began = await connection.fetchval("select clock_timestamp()")
        jobs = {queue: await _insert(connection, queue) for queue in CLOCKS}
        leases = await _watch_leases(connection, for_seconds=2 * LEASE)
        rows = {queue: await finished(connection, *ids) for queue, ids in jobs.items()}
        ended = await connection.fetchval("select clock_timestamp()")

        assert 0 < max(leases) <= LEASE
        for queue, ahead in CLOCKS.items():
            by_kind = dict(zip(KINDS, rows[queue], strict=True))
            read = json.loads(by_kind["wall"]["result"]) - ahead
            assert began.timestamp() - 1 < read < ended.timestamp() + 1, "the clock was not off"
            _check(by_kind, began, ended)
            _check_metrics(hosts["decade_fast"], queue)

        # One host dies. The hosts that must declare it dead have clocks that are years behind.
        await insert(connection, "sleep", queue="decade_fast", payload={"seconds": 60})
        await has_count(connection, 1, "status = 'running'")
        hosts["decade_fast"].kill_all()
        await has_count(connection, 1, "status = 'queued' and crashes = 1", within=LEASE + 2 * SWEEP + LATE)
        assert await connection.fetchval("select count(*) from pushq.supervisors") == len(CLOCKS) - 1


@contextmanager
def _host(url: str, queue: str, directory: Path) -> Iterator[RunningSupervisor]:
    """A supervisor, and a clock of its own."""
    home = directory / queue
    home.mkdir()
    env = environment(url, **QUICK) | dict(wrong_clock(CLOCKS[queue], home))
    supervisor = launch(home / "log", "tests.support.handlers:tasks", "--queue", queue, env=env)
    try:
        yield supervisor
    except BaseException:
        print(supervisor.said)
        raise
    finally:
        supervisor.end()


KINDS = ("wall", "sleep", "later", "fail", "snooze", "timeout")


async def _insert(connection: Connection, queue: str) -> list[Any]:
    """A job of each kind."""
    later = await connection.fetchval("select clock_timestamp() + interval '1 second'")
    return [
        *await insert(connection, "wall", queue=queue),
        *await insert(connection, "sleep", queue=queue, payload={"seconds": 0.5}),
        *await insert(connection, "echo", queue=queue, run_at=later),
        *await insert(connection, "fail", queue=queue),
        *await insert(connection, "snooze", queue=queue, payload={"times": 2}),
        *await insert(connection, "timeout.async", queue=queue),
    ]


async def _watch_leases(connection: Connection, *, for_seconds: float) -> list[float]:
    """For how many seconds leases hold, by the database's clock, as they are renewed."""
    seen: list[float] = []
    until = time.monotonic() + for_seconds
    while time.monotonic() < until:
        rows = await connection.fetch(
            "select extract(epoch from lease_until - clock_timestamp())::float8 as seconds from pushq.supervisors"
        )
        assert len(rows) == len(CLOCKS), "somebody was declared dead alive"
        seen += [row["seconds"] for row in rows]
        await asyncio.sleep(0.05)
    return seen


def _check(rows: Mapping[str, Any], began: Any, ended: Any) -> None:
    late = timedelta(seconds=LATE)
    for row in rows.values():
        assert began <= row["enqueued_at"] <= row["started_at"] <= row["finished_at"] <= ended
        assert row["crashes"] == 0
    ran = {kind: row["finished_at"] - row["started_at"] for kind, row in rows.items()}
    assert timedelta(seconds=0.5) <= ran["sleep"] < timedelta(seconds=0.5) + late
    assert timedelta(0) <= rows["later"]["started_at"] - rows["later"]["run_at"] < late
    assert timedelta(seconds=0.1) <= ran["timeout"] < timedelta(seconds=0.1) + late
    assert {kind: (row["status"], row["attempt"], row["failures"]) for kind, row in rows.items()} == {
        "wall": ("succeeded", 1, 0),
        "sleep": ("succeeded", 1, 0),
        "later": ("succeeded", 1, 0),
        "fail": ("failed", 3, 3),
        "snooze": ("succeeded", 3, 0),
        "timeout": ("failed", 1, 1),
    }


def _check_metrics(host: RunningSupervisor, queue: str) -> None:
    """As any host shows them."""
    assert 0.5 <= scrape(host, "pushq_job_run_seconds_sum", queue=queue, task="sleep") < 0.5 + LATE
    assert 0 <= scrape(host, "pushq_job_wait_seconds_sum", queue=queue, task="echo") < LATE
    assert 0 <= scrape(host, "pushq_job_wait_seconds_sum", queue=queue) < len(KINDS) * LATE
    assert scrape(host, "pushq_jobs_finished_total", queue=queue) == len(KINDS)
    assert 0 <= scrape(host, "pushq_queue_oldest_seconds", queue=queue) < 60


async def test_a_delay_given_at_the_command_line_counts_by_the_database_s_clock(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """On a host whose clock is an hour ahead."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pushq", "enqueue", "echo", "--delay", "60"],
        env=environment(database_url) | dict(wrong_clock(HOUR, tmp_path)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    row = await row_of(connection, UUID(ended.stdout.strip()))
    assert row["run_at"] - row["enqueued_at"] < timedelta(seconds=61)


# A host that sleeps ---------------------------------------------------------------------------------------------------

SHORT_LEASE = 1.2
ASLEEP = 3 * SHORT_LEASE
WAYS = ("succeed", "fail", "snooze", "cancel")


async def test_a_host_that_slept_for_three_leases_has_every_outcome_refused_and_works_on(
    database_url: str, connection: Connection
) -> None:
    """Also those of jobs that somebody else is still running when it wakes."""
    with _serving(database_url, "shared", "own") as sleeper:
        short = [job for how in WAYS for job in await _insert_end(connection, 0.3, how)]
        long = [job for how in WAYS for job in await _insert_end(connection, ASLEEP + 0.5, how)]
        await has_count(connection, 8, "status = 'running'")
        os.killpg(sleeper.process.pid, signal.SIGSTOP)
        fell_asleep_at = time.monotonic()
        with _serving(database_url, "shared"):
            before = await finished(connection, *short)
            await has_count(connection, 4, "status = 'running' and crashes = 1")
            await asyncio.sleep(fell_asleep_at + ASLEEP - time.monotonic())
            assert await count(connection, "status = 'running'") == 4, "the other one was too quick to be disturbed"
            os.killpg(sleeper.process.pid, signal.SIGCONT)
            wait_until(lambda: sleeper.said.count("outcome refused") == 8)
            rows = await finished(connection, *short, *long)

        assert rows[:4] == before
        assert {(row["status"], row["result"], row["attempt"], row["crashes"], row["failures"]) for row in rows} == {
            ("succeeded", "2", 2, 1, 0)
        }
        assert await connection.fetchval(_COUNTED) == 8
        assert "lease lapsed" in sleeper.said
        assert "pool died" not in sleeper.said
        (own,) = await finished(connection, *await insert(connection, "echo", queue="own"))
        assert (own["status"], own["attempt"]) == ("succeeded", 1)


def _serving(url: str, *queues: str) -> AbstractContextManager[RunningSupervisor]:
    flags = ["--concurrency=20", *(f"--queue={queue}" for queue in queues)]
    return supervising(url, *flags, LEASE=f"{SHORT_LEASE}", HEARTBEAT_INTERVAL="0.4", SWEEP_INTERVAL="0.3")


async def _insert_end(connection: Connection, seconds: float, how: str) -> list[UUID]:
    return await insert(connection, "end", queue="shared", payload={"seconds": seconds, "how": how})


_COUNTED = """
select sum(jobs) from (select * from pushq.tallies union all select * from pushq.tally_log) as counted
where outcome in ('succeeded', 'failed', 'cancelled')
"""
