"""Guarantees 7 and 9: a dead pool's jobs are back in under a second; who keeps killing ends as failed, and only he."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually


async def test_the_jobs_of_a_killed_pool_are_requeued_within_a_second_and_all_succeed(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, "--concurrency", "200") as supervisor:
        jobs = await insert(connection, "sleep", 200, payload={"seconds": 1.5})
        await has_count(connection, 200, "status = 'running'")
        killed_at = time.monotonic()
        os.kill(supervisor.pools[0], signal.SIGKILL)
        await has_count(connection, 200, "crashes = 1", within=1)
        seconds = time.monotonic() - killed_at
        rows = await finished(connection, *jobs)
        died = r'pool died pool=1 exit="signal SIGKILL" requeued=200 failed=0 tasks=sleep$'
        assert re.search(died, supervisor.said, re.MULTILINE)

    assert seconds < 1
    assert {(row["status"], row["attempt"], row["crashes"], row["failures"]) for row in rows} == {
        ("succeeded", 2, 1, 0)
    }


async def test_a_job_whose_row_was_locked_while_its_pool_died_is_released_when_it_is_not(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        (job,) = await insert(connection, "sleep", payload={"seconds": 0.5}, queue="default")
        await has_count(connection, 1, "status = 'running'")
        async with connection.transaction():
            await connection.fetch("select pushq.retry($1)", job)
            os.kill(supervisor.pools[0], signal.SIGKILL)
            await eventually(lambda: _has_said(supervisor, "pool died pool=1"))
        (row,) = await finished(connection, job)

    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 2, 0)


async def test_a_job_that_runs_under_a_pool_of_long_ago_is_released(database_url: str, connection: Connection) -> None:
    """However long its row was locked, or its claim took."""
    with supervising(database_url) as supervisor:
        name = await connection.fetchval("select name from pushq.supervisors")
        (job,) = await insert(connection, "echo", queue="elsewhere")
        await connection.execute(
            "update pushq.jobs_unfinished set queue = 'default', status = 'running', attempt = 1, supervisor = $1, "
            "pool = 0, token = gen_random_uuid(), started_at = now()",
            name,
        )
        (row,) = await finished(connection, job)
        assert supervisor.pools

    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 2, 0)


async def test_a_pool_that_the_system_cannot_start_is_started_when_it_can(
    database_url: str, connection: Connection
) -> None:
    """The supervisor is out of files as one of its two pools dies. The jobs of the other run on."""
    with supervising(database_url, "--processes", "2", "--concurrency", "1") as supervisor:
        jobs = await insert(connection, "sleep", 2, payload={"seconds": 3})
        await has_count(connection, 2, "status = 'running'")
        limits = resource.prlimit(supervisor.process.pid, resource.RLIMIT_NOFILE)
        in_use = max(int(file.name) for file in Path(f"/proc/{supervisor.process.pid}/fd").iterdir())
        resource.prlimit(supervisor.process.pid, resource.RLIMIT_NOFILE, (in_use + 1, limits[1]))
        os.kill(supervisor.pools[0], signal.SIGKILL)
        await eventually(lambda: _has_said(supervisor, 'exit="could not be started: Too many open files"'))
        resource.prlimit(supervisor.process.pid, resource.RLIMIT_NOFILE, limits)
        rows = await finished(connection, *jobs)
        await eventually(lambda: _has_said(supervisor, "pool ready pool=", times=3))
        assert supervisor.stop() == 0

    assert sorted((row["status"], row["attempt"], row["crashes"]) for row in rows) == [
        ("succeeded", 1, 0), ("succeeded", 2, 1),
    ]  # fmt: skip


async def test_a_pool_for_which_there_is_no_thread_left_is_started_when_there_is(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    none_left = tmp_path / "none"
    program = "tests.prove.faults.without_threads"
    with supervising(database_url, program=program, TEST_NO_THREADS=str(none_left)) as supervisor:
        jobs = await insert(connection, "sleep", 2, payload={"seconds": 0.5})
        await has_count(connection, 2, "status = 'running'")
        none_left.touch()
        os.kill(supervisor.pools[0], signal.SIGKILL)
        await eventually(lambda: _has_said(supervisor, "could not be started: can't start new thread"))
        none_left.unlink()
        rows = await finished(connection, *jobs)
        assert supervisor.stop() == 0

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 2, 1)}


async def test_a_def_for_which_there_is_no_thread_is_given_back_at_no_charge_and_claims_slow_down(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """There is one thread, which the pool had before. A job that was never called has not failed."""
    none_left = tmp_path / "none"
    with supervising(
        database_url, tasks="tests.prove.faults.handlers:tasks", TEST_NO_THREADS=str(none_left)
    ) as supervisor:
        pools = supervisor.pools
        beside = await insert(connection, "sleep", 2, payload={"seconds": 2})
        none_left.touch()
        payload = {"seconds": 1.5}
        threaded = await insert(connection, "sleep.thread", 3, payload=payload, max_attempts=1)
        threaded += await insert(
            connection, "sleep.thread", payload=payload, max_attempts=1, timeout=timedelta(seconds=9)
        )
        suspects = await insert(connection, "sleep.thread", payload=payload, max_attempts=1)
        await connection.execute("update pushq.jobs_unfinished set crashes = 2 where id = any($1)", suspects)
        rows = await finished(connection, *beside)
        none_left.unlink()
        rows += await finished(connection, *threaded, *suspects)
        assert supervisor.pools[:1] == pools
        assert supervisor.said.count('no thread reason="can\'t start new thread"') == 1

    assert {(row["status"], row["failures"], row["error"]) for row in rows} == {("succeeded", 0, None)}
    attempts = [row["attempt"] for row in rows if row["id"] in threaded]
    assert 2 <= max(attempts) <= 10 * 3  # ten workers, each of which rests for a second


async def _has_said(supervisor: RunningSupervisor, words: str, times: int = 1) -> bool:
    return supervisor.said.count(words) >= times


async def test_a_suspect_that_cancels_the_task_it_runs_in_is_not_taken_for_a_killer(
    database_url: str, connection: Connection
) -> None:
    (job,) = await insert(connection, "cancel.own.task", payload={"after": 0, "waits": 0})
    await connection.execute("update pushq.jobs_unfinished set crashes = 2")
    with supervising(database_url) as supervisor:
        (row,) = await finished(connection, job)
        assert "pool died" not in supervisor.said

    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 1, 2)


async def test_the_jobs_of_a_dead_host_are_requeued_within_its_lease_and_two_sweeps(
    database_url: str, connection: Connection
) -> None:
    lease, sweep = 1.5, 0.5
    with supervising(database_url, "--concurrency", "50") as doomed:
        jobs = await insert(connection, "sleep", 50, payload={"seconds": 60})
        await has_count(connection, 50, "status = 'running'")
        with supervising(database_url, "--queue", "elsewhere"):
            doomed.kill_all()
            died_at = time.monotonic()
            await has_count(connection, 50, "crashes = 1 and status = 'queued'", within=10)
            seconds = time.monotonic() - died_at

        assert seconds < lease + 2 * sweep + 0.5  # and what a loaded machine adds
        assert await count(connection, "status = 'running'") == 0
        assert len(jobs) == 50


async def test_a_job_that_kills_its_process_three_times_ends_as_failed_and_only_it(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, "--concurrency", "20"):
        (killer,) = await insert(connection, "die")
        others = await insert(connection, "sleep", 10, payload={"seconds": 0.3})
        (killer_row,) = await finished(connection, killer, within=40)
        rows = await finished(connection, *others, within=40)

    assert (killer_row["status"], killer_row["crashes"], killer_row["failures"]) == ("failed", 3, 0)
    assert killer_row["error"] == "ProcessDied: the process that ran the job died (crash 3 of 3)"
    assert {row["status"] for row in rows} == {"succeeded"}
    assert max(row["crashes"] for row in rows) <= 2


async def test_a_job_that_ends_its_process_quietly_is_charged_all_the_same(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url):
        (row,) = await finished(connection, *await insert(connection, "die.quietly"), within=40)

    assert (row["status"], row["crashes"]) == ("failed", 3)


async def test_a_pool_that_ends_unasked_or_can_be_told_nothing_more_is_charged_whatever_it_says(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        for how in ("says it is done", "says nonsense", "says a list", "closes it"):
            (row,) = await finished(connection, *await insert(connection, "spoil.line", payload={"how": how}))
            assert (how, row["result"], row["attempt"], row["crashes"]) == (how, '"lived"', 2, 1)
        assert supervisor.stop() == 0
        assert supervisor.said.count("pool died") == 4


async def test_a_pool_that_died_once_is_up_again_and_its_job_may_live(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url):
        (row,) = await finished(connection, *await insert(connection, "die.once"))

    assert (row["status"], row["result"], row["crashes"]) == ("succeeded", '"lived"', 1)


async def test_pools_die_with_their_supervisor_even_when_their_loop_is_blocked(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        await insert(connection, "block", payload={"seconds": 60})
        await has_count(connection, 1, "status = 'running'")
        pools = supervisor.pools
        supervisor.process.kill()
        supervisor.process.wait(10)

        for pool in pools:
            await _gone(pool)


async def _gone(pid: int) -> None:
    async def look() -> bool:
        status = Path(f"/proc/{pid}/status")
        return not status.exists() or "State:\tZ" in status.read_text()

    await eventually(look)


async def test_jobs_that_ran_beside_a_killer_twice_all_succeed(database_url: str, connection: Connection) -> None:
    """They are suspects like it. None of them may be charged with its third death."""
    with supervising(database_url, "--concurrency", "20"):
        async with connection.transaction():
            innocents = await insert(connection, "sleep", 10, payload={"seconds": 0.05})
            killers = await insert(connection, "die", 2)
            innocents += await insert(connection, "echo", 5)
        rows = await finished(connection, *innocents, within=40)
        ends = await finished(connection, *killers, within=40)

    assert {row["status"] for row in rows} == {"succeeded"}
    assert {(row["status"], row["crashes"]) for row in ends} == {("failed", 3)}


async def test_a_killer_s_third_run_does_not_wait_for_a_sweep(database_url: str, connection: Connection) -> None:
    with supervising(database_url, SWEEP_INTERVAL="60"):
        (killer,) = await insert(connection, "die")
        (row,) = await finished(connection, killer)

    assert (row["status"], row["crashes"]) == ("failed", 3)


async def test_suspects_run_side_by_side_and_one_that_hangs_holds_up_no_other(
    database_url: str, connection: Connection
) -> None:
    """They are found as soon as a pool has begun, and when they are due; no sweep comes meanwhile."""
    hanging = await insert(connection, "sleep", 3, payload={"seconds": 3600})
    (late,) = await insert(connection, "echo", priority=1, run_at=datetime.now(UTC) + timedelta(seconds=4))
    (last,) = await insert(connection, "echo", priority=2)
    await connection.execute("update pushq.jobs_unfinished set crashes = 2")
    with supervising(
        database_url, "--processes", "2", program="tests.prove.faults.impatient", SWEEP_INTERVAL="60"
    ) as supervisor:
        rows = await finished(connection, last, late)
        pools = await connection.fetch("select pool from pushq.jobs where id = any($1) and status = 'running'", hanging)
        assert supervisor.stop() == 0

    assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 1)}
    assert len({row["pool"] for row in pools}) == 3
    assert await count(connection, "status = 'queued' and attempt = 1 and crashes = 2") == 3


async def test_a_suspect_whose_row_is_locked_costs_no_process_after_the_other(
    database_url: str, connection: Connection
) -> None:
    await insert(connection, "echo")
    await connection.execute("update pushq.jobs_unfinished set crashes = 2")
    async with connection.transaction():
        await connection.fetch("select from pushq.jobs_unfinished for update")
        with supervising(database_url, SWEEP_INTERVAL="2") as supervisor:
            await eventually(lambda: _has_said(supervisor, "solo=True", times=2))
            starts = supervisor.instants("solo=True")
    assert starts[1] - starts[0] > 2
    assert await count(connection, "status = 'queued'") == 1
