"""The server's clock is set, by an hour, while jobs run.

In the test's database the functions by which every statement of pushq asks for the time are replaced.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.metrics import scrape
from tests.support.supervisors import QUICK, supervising
from tests.support.waiting import eventually

CLOCK = """
create schema clock;
create table clock.step (ahead interval not null);
insert into clock.step values ('0');
alter function pg_catalog.now() rename to real_now;
alter function pg_catalog.clock_timestamp() rename to real_clock_timestamp;
create function pg_catalog.now() returns timestamptz language sql stable
    as 'select pg_catalog.real_now() + ahead from clock.step';
create function pg_catalog.clock_timestamp() returns timestamptz language sql volatile
    as 'select pg_catalog.real_clock_timestamp() + ahead from clock.step';
alter table pushq.jobs alter run_at set default now(), alter enqueued_at set default now();
"""


@pytest.fixture
async def settable_clock(connection: Connection) -> None:
    await connection.execute(CLOCK)


async def set_clock(connection: Connection, ahead: str) -> None:
    """For every statement that begins from now on."""
    await connection.execute("update clock.step set ahead = $1::text::interval", ahead)


@pytest.mark.usefixtures("settable_clock")
@pytest.mark.parametrize("step", ["1 hour", "-1 hour"])
async def test_no_living_supervisor_loses_its_jobs_when_the_server_s_clock_is_set(
    database_url: str, connection: Connection, step: str
) -> None:
    with supervising(database_url, "--concurrency", "5") as one, supervising(database_url, "--concurrency", "5"):
        jobs = await insert(connection, "sleep", 10, payload={"seconds": 3 * float(QUICK["LEASE"])})
        await has_count(connection, 10, "status = 'running'")
        await set_clock(connection, step)
        rows = await finished(connection, *jobs)
        assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
        if step == "1 hour":
            assert "lease lapsed" in one.said  # else the clock was not set for it
        await finished(connection, *await insert(connection, "echo", 5))


@pytest.mark.usefixtures("settable_clock")
@pytest.mark.parametrize("step", ["1 hour", "-1 hour"])
async def test_the_jobs_of_a_dead_supervisor_are_requeued_as_soon_as_ever_when_the_server_s_clock_is_set(
    database_url: str, connection: Connection, step: str
) -> None:
    lease, sweep = float(QUICK["LEASE"]), float(QUICK["SWEEP_INTERVAL"])
    with supervising(database_url) as doomed, supervising(database_url, "--queue", "elsewhere"):
        await insert(connection, "sleep", 5, payload={"seconds": 60})
        await has_count(connection, 5, "status = 'running'")
        doomed.kill_all()
        await set_clock(connection, step)
        await has_count(connection, 5, "status = 'queued' and crashes = 1", within=2 * lease + 2 * sweep + 1)
        await eventually(lambda: _lives_alone(connection))


@pytest.mark.usefixtures("settable_clock")
async def test_no_run_ends_before_it_began_and_no_counter_falls_when_the_server_s_clock_is_set_back(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        (returns,) = await insert(connection, "sleep", payload={"seconds": 2})
        cancelled, dies = await insert(connection, "sleep", 2, payload={"seconds": 60})
        await has_count(connection, 3, "status = 'running'")
        await connection.execute("update pushq.jobs_unfinished set crashes = 2 where id = $1", dies)
        await set_clock(connection, "-1 hour")
        await connection.execute("select pushq.cancel($1)", cancelled)
        await finished(connection, returns)
        os.kill(supervisor.pools[0], signal.SIGKILL)
        rows = await finished(connection, returns, cancelled, dies)

        assert [row["status"] for row in rows] == ["succeeded", "cancelled", "failed"]
        assert all(row["started_at"] <= row["finished_at"] for row in rows)
        assert (
            await connection.fetchval("select coalesce(min(least(run_seconds, wait_seconds)), 0) from pushq.tally_log")
            >= 0
        )
        assert scrape(supervisor, "pushq_job_run_seconds_count") == 2
        assert 2 <= scrape(supervisor, "pushq_job_run_seconds_sum") < 60  # of the one that returned


async def _lives_alone(connection: Connection) -> bool:
    return bool(
        await connection.fetchval("select count(*) = 1 and bool_and(queues = '{elsewhere}') from pushq.supervisors")
    )
