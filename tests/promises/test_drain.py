"""Guarantee 8: SIGTERM ends the process within the grace period, loses nothing and spends no attempt."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from pushq.supervisor.signals import PASSED_OVER, obeyed
from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually, wait_until


def _interrupt_the_group(supervisor: RunningSupervisor) -> None:
    os.killpg(supervisor.process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does


def _terminate(supervisor: RunningSupervisor) -> None:
    supervisor.process.terminate()


def _quit_the_group(supervisor: RunningSupervisor) -> None:
    os.killpg(supervisor.process.pid, signal.SIGQUIT)  # as Ctrl-\\ does


@pytest.mark.parametrize("stop", [_terminate, _interrupt_the_group, _quit_the_group])
async def test_running_jobs_finish_and_queued_ones_stay(
    database_url: str, connection: Connection, stop: object
) -> None:
    with supervising(database_url, "--concurrency", "5") as supervisor:
        await insert(connection, "sleep", 20, payload={"seconds": 2.5})
        await has_count(connection, 5, "status = 'running'")
        await eventually(lambda: _are_begun(supervisor, 5))  # what is claimed and not begun would be given back
        stop(supervisor)  # type: ignore[operator]
        assert supervisor.process.wait(10) == 0

    assert await count(connection, "status = 'succeeded' and attempt = 1") == 5
    assert await count(connection, "status = 'queued' and attempt = 0") == 15
    assert await count(connection, "status = 'running'") == 0
    assert await connection.fetchval("select count(*) from pushq.supervisors") == 0


async def _are_begun(supervisor: RunningSupervisor, jobs: int) -> bool:
    return f'pushq_workers{{state="busy"}} {jobs}.0\n' in supervisor.get("/metrics")[1]


async def test_what_outlasts_the_grace_period_is_released_at_no_charge(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, "--concurrency", "10", SHUTDOWN_TIMEOUT="0.5") as supervisor:
        asynchronous = await insert(connection, "sleep", 3, payload={"seconds": 60})
        threads = await insert(connection, "sleep.thread", 3, payload={"seconds": 60})
        await has_count(connection, 6, "status = 'running'")
        began = time.monotonic()
        assert supervisor.stop() == 0
        seconds = time.monotonic() - began
        assert "released=6" in supervisor.said

    assert seconds < 0.5 + 3
    released = "status = 'queued' and attempt = 1 and failures = 0 and crashes = 0 and token is null"
    assert await count(connection, released) == len(asynchronous) + len(threads)


async def test_a_blocked_loop_is_released_too(database_url: str, connection: Connection) -> None:
    with supervising(database_url, SHUTDOWN_TIMEOUT="0.5") as supervisor:
        await insert(connection, "block", payload={"seconds": 60})
        await has_count(connection, 1, "status = 'running'")
        began = time.monotonic()
        assert supervisor.stop() == 0

    assert time.monotonic() - began < 0.5 + 3
    assert await count(connection, "status = 'queued' and failures = 0 and crashes = 0") == 1


async def test_a_second_signal_stops_at_once_and_loses_nothing(database_url: str, connection: Connection) -> None:
    with supervising(database_url, SHUTDOWN_TIMEOUT="30") as supervisor:
        await insert(connection, "sleep", 3, payload={"seconds": 60})
        await has_count(connection, 3, "status = 'running'")
        began = time.monotonic()
        supervisor.process.terminate()
        wait_until(lambda: "draining" in supervisor.said)
        supervisor.process.terminate()
        assert supervisor.process.wait(10) == 0

    assert time.monotonic() - began < 5
    assert await count(connection, "status = 'queued' and failures = 0 and crashes = 0") == 3


def test_signals_that_come_until_its_very_end_do_not_make_that_a_failure(database_url: str) -> None:
    with supervising(database_url) as supervisor:
        until = time.monotonic() + 10
        while supervisor.process.poll() is None:
            supervisor.process.terminate()
            supervisor.process.send_signal(signal.SIGINT)
            time.sleep(0.001)  # it has to get on with its end
            assert time.monotonic() < until

        assert supervisor.process.returncode == 0
        assert "Traceback" not in supervisor.said
        assert "supervisor stopped" in supervisor.said


async def test_released_jobs_run_again_elsewhere(database_url: str, connection: Connection) -> None:
    with supervising(database_url, SHUTDOWN_TIMEOUT="0.1") as first, supervising(database_url, POLL_INTERVAL="0"):
        jobs = await insert(connection, "sleep", 20, payload={"seconds": 0.5})
        await has_count(connection, 20, "status in ('running', 'succeeded')")
        first.stop()
        rows = await finished(connection, *jobs)

    assert {(row["status"], row["failures"], row["crashes"]) for row in rows} == {("succeeded", 0, 0)}


async def test_no_signal_that_the_whole_group_gets_ends_it_without_a_drain(
    database_url: str, connection: Connection
) -> None:
    """A terminal that goes away hangs up, more than once; `systemctl kill` signals every process."""
    with supervising(database_url, SHUTDOWN_TIMEOUT="15") as supervisor:
        running = await insert(connection, "sleep", 3, payload={"seconds": 3})
        await has_count(connection, 3, "status = 'running'")
        for number in PASSED_OVER:
            os.killpg(supervisor.process.pid, number)
        (more,) = await insert(connection, "echo")
        await finished(connection, more)
        for _ in range(3):
            os.killpg(supervisor.process.pid, signal.SIGHUP)
            wait_until(lambda: "draining" in supervisor.said)
        assert supervisor.process.wait(15) == 0
        rows = await finished(connection, *running)
        said = supervisor.said

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
    assert "most recent call first" not in said  # a dump of stacks may kill a pool at work


def test_a_supervisor_obeys_whatever_would_end_it_but_what_it_was_started_to_ignore() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert signal.SIGHUP not in obeyed()
    finally:
        signal.signal(signal.SIGHUP, before)
    own = {signal.SIGKILL, signal.SIGPIPE, signal.SIGSTKFLT, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)}
    faults = {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
    }
    harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGXFSZ}
    stops = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    assert signal.valid_signals() - own - faults - harmless - stops == set(obeyed())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_before_the_database_has_answered_for_the_first_time_is_heard(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql://nobody@127.0.0.1:{mute.getsockname()[1]}/nowhere"
        with supervising(url, ready=False) as supervisor:
            mute.settimeout(20)
            connected, _ = mute.accept()
            with connected:
                supervisor.signal(number)
                assert supervisor.process.wait(3) == 0
            assert "Traceback" not in supervisor.said
