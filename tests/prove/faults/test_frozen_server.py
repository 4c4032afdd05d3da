"""The server stands still, as on a host that hangs, and goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from pushq.database.session import Session
from pushq.events import DatabaseLost, Event, subscribe
from pushq.local.server import EmbeddedServer
from pushq.supervisor.heartbeat import Heartbeat
from pushq.sweeper import Sweeper
from pushq.sweeper.witness import Witness
from tests.support.hurt import a_server_to_hurt, freeze, thaw
from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.pools import asleep
from tests.support.store import Store
from tests.support.supervisors import QUICK, supervising
from tests.support.waiting import eventually
from tests.torture.planted import plant

TASKS = "tests.prove.faults.handlers:tasks"
LEASE, SWEEP = float(QUICK["LEASE"]), float(QUICK["SWEEP_INTERVAL"])


async def test_a_pause_of_three_leases_takes_no_job_from_the_living_and_saves_nobody_who_died_in_it() -> None:
    async with a_server_to_hurt() as (server, connection):
        with (
            supervising(server.url(), "--queue", "long", "--concurrency", "200") as living,
            supervising(server.url(), "--queue", "doomed", "--concurrency", "20") as doomed,
        ):
            jobs = await insert(connection, "sleep", 200, queue="long", payload={"seconds": 4 * LEASE})
            await insert(connection, "sleep", 20, queue="doomed", payload={"seconds": 60})
            await has_count(connection, 220, "status = 'running'")
            freeze(server)
            doomed.kill_all()
            await asyncio.sleep(3 * LEASE)
            thaw(server)
            within = 2 * LEASE + SWEEP + 0.5  # and what a loaded machine adds
            await has_count(connection, 20, "queue = 'doomed' and status = 'queued' and crashes = 1", within=within)
            rows = await finished(connection, *jobs)

            assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
            assert "outcome refused" not in living.said


@pytest.mark.parametrize(("bug", "taken"), [(None, 0), ("one-witness", 5)])
async def test_a_sweep_that_is_carried_out_before_the_sign_of_life_takes_jobs_from_the_living_by_the_lease_alone(
    monkeypatch: pytest.MonkeyPatch, bug: str | None, taken: int
) -> None:
    """Both wait for the frozen server, and the backend of the heartbeat wakes up last. The second is the control."""
    monkeypatch.setattr("pushq.sweeper.witness.SLOW_ANSWER", 0.3)
    monkeypatch.setattr(Witness, "dead", Witness.dead)  # and back again, at the end
    plant(bug)
    async with a_server_to_hurt() as (server, connection):
        session = Session(server.url(), "test")
        sweeper = Sweeper(Store(session), retention=604800)
        with supervising(server.url(), SWEEP_INTERVAL="60"):
            await insert(connection, "sleep", 5, payload={"seconds": 60})
            await has_count(connection, 5, "status = 'running'")
            await sweeper.sweep()
            heart = await connection.fetchval(
                "select pid from pg_stat_activity where application_name like '%: heartbeat'"
            )
            freeze(server)
            held_up = asyncio.create_task(sweeper.sweep())
            await asyncio.sleep(1.5 * LEASE)
            _thaw_all_but(server, heart)
            swept = [await held_up, await sweeper.sweep()]

            assert sum(each.requeued for each in swept) == taken
            assert await count(connection, "status = 'queued' and crashes = 1") == taken
            thaw(server)
        await session.close()


def _thaw_all_but(server: EmbeddedServer, last: int) -> None:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    for pid in (server.process.pid, *map(int, children)):
        if pid != last:
            os.kill(pid, signal.SIGCONT)


async def test_a_claim_that_a_frozen_server_carries_out_long_after_its_pool_gave_it_up_is_taken_back() -> None:
    """Else its jobs would run nowhere, under a living heartbeat, for ever."""
    async with a_server_to_hurt() as (server, connection):
        quick = supervising(server.url(), tasks=TASKS, POLL_INTERVAL="0", LEASE="60", TEST_DEADLINE="1", TEST_DOUBT="1")
        with quick:
            now, soon = await connection.fetchrow("select now()::text, now() + '2 s'")  # type: ignore[misc]
            (job,) = await insert(connection, "echo", run_at=soon)
            await asleep(connection, since=now)
            assert await connection.fetchval("select now() < $1", soon)
            freeze(server)  # the pool claims when the job falls due, and waits a second for the answer
            await asyncio.sleep(2 + 1 + 1 + 0.5)
            thaw(server)
            (row,) = await finished(connection, job, within=10)

    assert (row["started_at"] - soon).total_seconds() > 1
    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 1, 0)


async def test_a_supervisor_without_its_database_tries_its_heartbeat_as_often_as_ever(tmp_path: object) -> None:
    """When the database is back, a lease must not run out because the next try was put off for longer."""
    events: list[Event] = []
    session = Session(f"postgresql://nobody@/nothing?host={tmp_path}", "test")

    async def look_again() -> None:
        """Is not called: it never comes to life."""

    heartbeat = Heartbeat(Store(session), "test", interval=0.1, lease=0.3, workers=1, revived=look_again)
    with subscribe(events.append):
        beating = asyncio.create_task(heartbeat.run())
        await eventually(lambda: _has_lost(events, 15), within=4)
        beating.cancel()


async def _has_lost(events: list[Event], times: int) -> bool:
    return sum(isinstance(event, DatabaseLost) for event in events) >= times


async def test_a_sweep_that_the_server_held_up_is_no_witness_against_the_living(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever could not send a heartbeat meanwhile sends it when the server answers, perhaps after the sweep."""
    monkeypatch.setattr("pushq.sweeper.witness.SLOW_ANSWER", 0.3)
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('alive', 'here', 1, '500 ms', now() - interval '1 minute')"
    )
    session = Session(database_url, "test")
    sweeper = Sweeper(Store(session), retention=604800)
    await sweeper.sweep()
    async with connection.transaction():
        await connection.execute("lock table pushq.tally_log in access exclusive mode")
        held_up = asyncio.create_task(sweeper.sweep())
        await asyncio.sleep(1)
    await held_up
    assert (await sweeper.sweep()).dead == ()

    # It stands still for another lease, though everybody answers: it is dead.
    dead_by = time.monotonic() + 5
    while not (dead := (await sweeper.sweep()).dead):
        assert time.monotonic() < dead_by
        await asyncio.sleep(0.1)
    assert dead == ("alive",)
    await session.close()
