"""Whoever waits for a job is told when it ends, without polling, and learns nothing of another's."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import anyio
import asyncpg
import pytest

from pushq import NewJob, Queue
from pushq.database.session import Session
from pushq.errors import (
    DatabaseRefused,
    DatabaseTrouble,
    JobUnknown,
    KeyTaken,
    PayloadError,
    ResultError,
    SettingsError,
    ValueRefused,
    WaitTimeout,
)
from pushq.queue import columns_of
from pushq.waiting import Ended, Waiting
from pushq.waiting.pieces import SOON
from tests.support.commands import invoke
from tests.support.jobs import Connection, has_count, insert
from tests.support.proxy import proxied
from tests.support.supervisors import ROOT, environment, supervising
from tests.support.waiting import eventually

LATER = datetime(9000, 1, 1, tzinfo=UTC)
SESSIONS = (
    "select count(*) from pg_stat_activity where application_name ~ '^pushq waits' and datname = current_database()"
)
TOLD = 2.0
"""Seconds within which a wait ends that was told. The next look would come after five."""
QUEUE = Queue()


@pytest.fixture
async def waiting(database_url: str) -> Waiting:
    return Waiting(database_url, database_url)


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushq.waiting.LOOK", 0.5)


async def waiters(connection: Connection) -> int:
    return int(await connection.fetchval("select count(*) from pushq.jobs where waiters is not null"))


# Told ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "payload", "status", "result"),
    [
        ("echo", {"value": 7}, "succeeded", {"value": 7}),
        ("fail", {}, "failed", None),
        ("sleep", {"seconds": 0.3}, "succeeded", "slept"),
    ],
)
async def test_a_wait_ends_with_the_job_and_tells_its_end(
    connection: Connection, database_url: str, task: str, payload: dict[str, Any], status: str, result: object
) -> None:
    with supervising(database_url):
        (job,) = await insert(connection, task, payload=payload)
        ended = await QUEUE.wait(job, timeout=10, url=database_url)
        again = await QUEUE.run(NewJob(task, payload), timeout=10, url=database_url)
    assert (ended.id, ended.task, ended.status, ended.result) == (job, task, status, result)
    assert (again.status, again.result) == (status, result)
    assert (ended.error is None) == (status == "succeeded")
    assert await waiters(connection) == 0


async def test_of_many_waits_before_during_and_after_the_end_all_end_soon(
    connection: Connection, database_url: str, waiting: Waiting
) -> None:
    with supervising(database_url):
        jobs = await insert(connection, "sleep", 100, payload={"seconds": 0.05})
        jobs += await insert(connection, "echo", 400)
        began = time.monotonic()
        ended = await asyncio.gather(*(waiting.wait(job, 10) for job in jobs * 2))
        assert time.monotonic() - began < TOLD + 2
        after = await asyncio.gather(*(waiting.wait(job, 10) for job in jobs))
    assert [one.id for one in ended] == jobs * 2
    assert {one.status for one in [*ended, *after]} == {"succeeded"}
    sessions = (
        "select count(*) from pg_stat_activity where application_name ~ '^pushq waits' and datname = current_database()"
    )
    assert await connection.fetchval(sessions) == 2


@pytest.mark.parametrize("call", ["cancel($1)", "finish($1, token, 'failed')", "change($1, 'running', 'cancelled')"])
async def test_an_end_by_hand_is_told_at_once(connection: Connection, waiting: Waiting, call: str) -> None:
    (job,) = await insert(connection, "any")
    await connection.fetchval("select pushq.take($1, 'anna')", job)
    wait = asyncio.create_task(waiting.wait(job, 10))
    await eventually(lambda: waiters(connection))
    began = time.monotonic()
    await connection.execute(f"select pushq.{call} from pushq.jobs where id = $1", job)
    assert (await wait).status in ("cancelled", "failed")
    assert time.monotonic() - began < TOLD


async def test_a_third_crash_is_told(connection: Connection, database_url: str, waiting: Waiting) -> None:
    (job,) = await insert(connection, "die")
    with supervising(database_url):
        ended = await waiting.wait(job, 20)
    assert ended.status == "failed"
    assert "ProcessDied" in str(ended.error)


async def test_a_job_that_goes_on_is_waited_for_further(connection: Connection, database_url: str) -> None:
    with supervising(database_url):
        (job,) = await insert(connection, "fail.until", payload={"attempt": 3})
        ended = await QUEUE.wait(job, timeout=10, url=database_url)
    assert (ended.status, ended.attempt) == ("succeeded", 3)


async def test_in_any_language_the_channel_is_given_with_the_insert(database_url: str) -> None:
    channel, heard = f"pushq_{uuid4().hex}", list[str]()
    app = await asyncpg.connect(database_url)
    await app.add_listener(channel, lambda *arguments: heard.append(arguments[3]))
    with supervising(database_url):
        job = await app.fetchval(
            "insert into pushq.jobs (task, waiters) values ('echo', array[$1]) returning id", channel
        )

        async def is_heard() -> bool:
            return bool(heard)

        await eventually(is_heard)
    assert heard == [f"{job} succeeded"]
    await app.close()


# Lost ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_looks")
async def test_a_message_that_is_lost_costs_the_next_look(connection: Connection, waiting: Waiting) -> None:
    (job,) = await insert(connection, "any")
    wait = asyncio.create_task(waiting.wait(job, 20))
    await eventually(lambda: waiters(connection))
    await connection.execute("begin; set local pushq.notify = 'off'")
    await connection.execute(f"select pushq.cancel('{job}')")
    await connection.execute("commit")
    assert (await wait).status == "cancelled"


async def test_a_wait_outlives_a_lost_connection(connection: Connection, database_url: str) -> None:
    async with proxied(database_url) as proxy:
        waiting = Waiting(proxy.url, proxy.url)
        (job,) = await insert(connection, "any")
        wait = asyncio.create_task(waiting.wait(job, 20))
        await eventually(lambda: waiters(connection))
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name ~ '^pushq waits' and datname = current_database()"
        )
        await connection.execute("select pushq.cancel($1)", job)
        assert (await wait).status == "cancelled"


@pytest.mark.usefixtures("quick_looks")
async def test_a_pool_that_is_killed_after_the_end_costs_the_next_look(
    connection: Connection, database_url: str, waiting: Waiting
) -> None:
    """The end is committed, and the telling is kept from happening by the death of the pool."""
    with supervising(database_url) as supervisor:
        await connection.execute(
            "create schema others; create function others.slow() returns trigger language plpgsql as "
            "$$ begin if new.status = 'succeeded' then perform pg_sleep(0.3); end if; return new; end $$;"
            "create trigger slow after insert on pushq.jobs for each row execute function others.slow()"
        )
        (job,) = await insert(connection, "echo")
        wait = asyncio.create_task(waiting.wait(job, 20))
        await eventually(
            lambda: connection.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
            )
        )
        for pool in supervisor.pools:
            os.kill(pool, signal.SIGKILL)
        assert (await wait).status == "succeeded"


async def test_a_result_that_cannot_be_decoded_harms_its_own_wait_alone(
    connection: Connection, waiting: Waiting
) -> None:
    (hostile, good) = await insert(connection, "any", 2)
    waits = [asyncio.create_task(waiting.wait(job, 20)) for job in (hostile, good)]
    await eventually(lambda: connection.fetchval("select count(*) = 2 from pushq.jobs where waiters is not null"))
    for job, result in ((hostile, "1e5000"), (good, "7")):
        await connection.execute("select pushq.take($1, 'anna')", job)
        end = "select pushq.finish(id, token, 'succeeded', $2::text::jsonb) from pushq.jobs where id = $1"
        await connection.execute(end, job, result)
    with pytest.raises(ResultError, match=f"Job {hostile} has succeeded.*4300 digits.*Read the column result") as told:
        await waits[0]
    assert told.value.job_id == hostile
    assert (await waits[1]).result == 7


async def test_a_wait_that_comes_while_the_connections_are_closed_is_served(
    connection: Connection, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are closed after a while without waits. Here each wait comes in that instant."""
    monkeypatch.setattr("pushq.waiting.LINGER", 0.0)
    closing, rightly = asyncio.Event(), Session.close

    async def close(session: Session) -> None:
        closing.set()
        await asyncio.sleep(0.1)
        await rightly(session)

    monkeypatch.setattr(Session, "close", close)
    jobs = await insert(connection, "any", 3)
    await connection.execute("select pushq.cancel(id) from pushq.jobs")
    for job in jobs:
        assert (await waiting.wait(job, 5)).status == "cancelled"
        await closing.wait()
        closing.clear()


async def test_whatever_ends_the_serving_ends_the_waits(
    connection: Connection, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    (job,) = await insert(connection, "any")
    monkeypatch.setattr(Waiting, "_attend", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await waiting.wait(job, 5)


# Not --------------------------------------------------------------------------------------------------------------


async def test_a_wait_that_is_given_up_leaves_nothing_and_tells_what_the_job_is_doing(
    connection: Connection, waiting: Waiting
) -> None:
    (queued, later, held) = await insert(connection, "any", 3)
    await connection.execute("update pushq.jobs set run_at = now() + interval '1 hour' where id = $1", later)
    await connection.execute("select pushq.take($1, 'anna')", held)
    says = {
        queued: "it is queued in 'default', and is due",
        later: "it is queued in 'default', and is due in 3",
        held: "it has been running for ",
    }
    for job, what in says.items():
        with pytest.raises(WaitTimeout, match=f"Job {job} was not finished within 0.3 s: ") as given_up:
            await waiting.wait(job, 0.3)
        assert what in str(given_up.value)
    cancelled = asyncio.create_task(waiting.wait(queued))
    await eventually(lambda: waiters(connection))
    cancelled.cancel()
    assert await eventually(
        lambda: connection.fetchval("select count(*) = 0 from pushq.jobs where waiters is not null")
    )


@pytest.mark.usefixtures("quick_looks")
async def test_a_job_that_is_unknown_or_not_committed_or_deleted_is_told_as_such(
    connection: Connection, database_url: str, waiting: Waiting
) -> None:
    with pytest.raises(JobUnknown, match="nobody has inserted one with this id, the INSERT is not committed"):
        await waiting.wait(uuid4(), 10)
    app = await asyncpg.connect(database_url)
    async with app.transaction():
        (job,) = await insert(app, "any")
        with pytest.raises(JobUnknown):
            await waiting.wait(job, 10)
    wait = asyncio.create_task(waiting.wait(job, 20))
    await eventually(lambda: waiters(connection))
    await connection.execute("delete from pushq.jobs where id = $1", job)
    with pytest.raises(JobUnknown, match="was deleted"):
        await wait
    await app.close()
    with pytest.raises(TypeError, match="A job's id is a UUID, not a str"):
        await waiting.wait(str(job))  # type: ignore[arg-type]


async def test_a_key_that_is_taken_is_told(connection: Connection, database_url: str) -> None:
    await insert(connection, "any", unique_key="one")
    with pytest.raises(KeyTaken):
        await QUEUE.run(NewJob("any", unique_key="one"), url=database_url)


async def test_a_database_that_cannot_be_asked_is_told_at_once(database_url: str) -> None:
    with pytest.raises(DatabaseTrouble):
        await Queue().wait(
            uuid4(), url=f"{database_url}&connect_timeout=1".replace("/pushq_test", "/nobody_pushq_test")
        )


@pytest.mark.parametrize(
    "channels",
    ["'{}'", "array['mine']", "array[null]", "array['pushq_A']", "array['pushq_a b']", "array['pushq_']",
     "array['pushq_' || repeat('x', 58)]", "array_fill('pushq_a'::text, array[17])",
     "'{{pushq_a,pushq_b},{pushq_c,pushq_d}}'"],
)  # fmt: skip
async def test_what_is_no_channel_is_refused(connection: Connection, channels: str) -> None:
    """A name that pg_notify refuses would refuse the outcome."""
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await connection.execute(f"insert into pushq.jobs (task, waiters) values ('any', {channels})")
    assert refused.value.constraint_name == "jobs_waiters_are_1_to_16_channels"
    if not channels.startswith(("'{}'", "array_fill")):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="is no channel"):
            await connection.execute(f"select pushq.watch(gen_random_uuid(), ({channels}::text[])[1])")


async def test_a_channel_that_was_written_by_hand_harms_no_outcome(connection: Connection, database_url: str) -> None:
    (job,) = await insert(connection, "echo")
    await connection.execute(
        "alter table pushq.jobs_unfinished disable trigger zz_check_job;"
        "update pushq.jobs set waiters = array[repeat('x', 100), '', null, 'pushq_good', 'pushq bad'];"
        "alter table pushq.jobs_unfinished enable always trigger zz_check_job"
    )
    with supervising(database_url):
        ended = await QUEUE.wait(job, timeout=10, url=database_url)
    assert ended.status == "succeeded"


@pytest.mark.usefixtures("quick_looks")
async def test_the_seventeenth_who_waits_looks_now_and_then(connection: Connection, database_url: str) -> None:
    (job,) = await insert(connection, "any")
    waits = [asyncio.create_task(Waiting(database_url, database_url).wait(job, 20)) for _ in range(17)]
    full = "select count(*) from pushq.jobs where cardinality(waiters) = 16"
    await eventually(lambda: connection.fetchval(full))
    await connection.execute("select pushq.cancel($1)", job)
    assert {one.status for one in await asyncio.gather(*waits)} == {"cancelled"}


async def test_a_retried_job_tells_nobody_who_was_told_before(connection: Connection, waiting: Waiting) -> None:
    (job,) = await insert(connection, "any")
    wait = asyncio.create_task(waiting.wait(job, 10))
    await eventually(lambda: waiters(connection))
    await connection.execute("select pushq.cancel($1)", job)
    await wait
    await connection.execute("select pushq.retry($1)", job)
    await has_count(connection, 1, "status = 'queued' and waiters is null")
    assert isinstance(job, UUID)


# Others -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def locked(connection: Connection, database_url: str) -> AsyncIterator[UUID]:
    """A job with a row that another session has locked."""
    (job,) = await insert(connection, "any")
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("select from pushq.jobs where id = $1 for update", job)
        yield job
    await other.close()


async def test_a_wait_for_a_locked_row_harms_no_other(
    connection: Connection, database_url: str, waiting: Waiting, locked: UUID
) -> None:
    """The others come before, together with, and after the wait for the locked row."""
    early = asyncio.create_task(waiting.wait((await insert(connection, "any", run_at=LATER))[0], 20))
    await eventually(lambda: waiters(connection))
    stuck = asyncio.create_task(waiting.wait(locked, 30))
    jobs = await insert(connection, "any", 20, run_at=LATER)
    together = [asyncio.create_task(waiting.wait(job, 20)) for job in jobs]
    await eventually(lambda: connection.fetchval("select count(*) = 21 from pushq.jobs where waiters is not null"))
    began = time.monotonic()
    await connection.execute("select pushq.cancel(id) from pushq.jobs where id <> $1", locked)
    assert {one.status for one in await asyncio.gather(early, *together)} == {"cancelled"}
    with supervising(database_url):
        assert (await waiting.run(columns_of([NewJob("echo")]), 10)).status == "succeeded"
    assert time.monotonic() - began < TOLD + 2
    stuck.cancel()


@pytest.mark.usefixtures("quick_looks")
async def test_a_row_that_was_locked_for_longer_is_watched_once_the_lock_is_gone(
    connection: Connection, database_url: str, waiting: Waiting
) -> None:
    (job,) = await insert(connection, "any")
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("select from pushq.jobs where id = $1 for update", job)
        wait = asyncio.create_task(waiting.wait(job, 20))

        async def is_set_aside() -> bool:
            return any(sent > SOON for sent in waiting._watches._aside.values())

        await eventually(is_set_aside)
    await eventually(lambda: waiters(connection))
    await connection.execute("select pushq.cancel($1)", job)
    assert (await wait).status == "cancelled"
    await other.close()


async def test_a_row_that_was_locked_for_a_while_is_watched_soon(
    connection: Connection, database_url: str, waiting: Waiting
) -> None:
    """As by a claim on a busy machine: the wait must not come to know of the end by its next look alone."""
    (job,) = await insert(connection, "any")
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("select from pushq.jobs where id = $1 for update", job)
        wait = asyncio.create_task(waiting.wait(job, 20))

        async def is_set_aside() -> bool:
            return any(sent > 1 for sent in waiting._watches._aside.values())

        await eventually(is_set_aside)
    await other.close()
    began = time.monotonic()
    await eventually(lambda: waiters(connection))
    await connection.execute("select pushq.cancel($1)", job)
    assert (await wait).status == "cancelled"
    assert time.monotonic() - began < TOLD


@pytest.mark.usefixtures("quick_looks")
async def test_a_row_that_cannot_be_watched_harms_its_own_wait_alone(connection: Connection, waiting: Waiting) -> None:
    """Rows with two-dimensional channels, which were not refused formerly, and a foreign trigger that refuses."""
    hostile, guarded, good = await insert(connection, "any", 3, run_at=LATER)
    await connection.execute(
        "alter table pushq.jobs_unfinished disable trigger zz_check_job;"
        f"update pushq.jobs set waiters = '{{{{pushq_a}},{{pushq_b}}}}' where id = '{hostile}';"
        "alter table pushq.jobs_unfinished enable always trigger zz_check_job;"
        "create schema others; create function others.guard() returns trigger language plpgsql as "
        "$$ begin raise insufficient_privilege; end $$;"
        "create trigger guard before update on pushq.jobs_unfinished for each row "
        f"when (old.id = '{guarded}') execute function others.guard()"
    )
    waits = [asyncio.create_task(waiting.wait(good, 20))]
    await eventually(lambda: connection.fetchval("select waiters is not null from pushq.jobs where id = $1", good))
    waits += [asyncio.create_task(waiting.wait(job, 20)) for job in (hostile, guarded)]
    waits += [asyncio.create_task(waiting.wait(job, 20)) for job in await insert(connection, "any", 5, run_at=LATER)]
    await eventually(lambda: connection.fetchval("select count(*) = 7 from pushq.jobs where waiters is not null"))
    await connection.execute("select pushq.cancel(id) from pushq.jobs")
    assert {one.status for one in await asyncio.gather(*waits)} == {"cancelled"}


async def test_a_wait_whose_time_is_up_returns_an_end_of_which_it_was_not_told(
    connection: Connection, waiting: Waiting
) -> None:
    (job,) = await insert(connection, "any")
    wait = asyncio.create_task(waiting.wait(job, 1))
    await eventually(lambda: waiters(connection))
    await connection.execute(f"begin; set local pushq.notify = 'off'; select pushq.cancel('{job}'); commit")
    assert (await wait).status == "cancelled"


@pytest.mark.usefixtures("quick_looks")
async def test_a_message_that_is_lost_amid_a_stream_of_waits_costs_the_next_look(
    connection: Connection, waiting: Waiting
) -> None:
    (job,) = await insert(connection, "any")
    wait = asyncio.create_task(waiting.wait(job, 10))
    await eventually(lambda: waiters(connection))
    await connection.execute(f"begin; set local pushq.notify = 'off'; select pushq.cancel('{job}'); commit")
    (other,) = await insert(connection, "any", run_at=LATER)
    while not wait.done():
        with pytest.raises(WaitTimeout):
            await waiting.wait(other, 0.1)
    assert (await wait).status == "cancelled"


async def test_runs_and_timeouts_share_few_connections(connection: Connection, waiting: Waiting) -> None:
    async def most_sessions() -> int:
        most = 0
        while not all(run.done() for run in runs):
            most = max(most, await connection.fetchval(SESSIONS))
        return most

    keys = [None] * 300 + [*map(str, range(50))]
    runs = [asyncio.create_task(waiting.run(columns_of([NewJob("any", unique_key=key)]), 3)) for key in keys]
    most = await most_sessions()
    ends = await asyncio.gather(*runs, return_exceptions=True)
    assert {str(end).partition(": ")[2].partition(" in")[0] for end in ends} == {"it is queued"}
    ids = {row["id"] for row in await connection.fetch("select id from pushq.jobs")}
    assert ids == {end.job_id for end in ends if isinstance(end, WaitTimeout)}
    assert len(ids) == 350
    assert most <= 4
    assert await waiters(connection) == 0


async def test_a_run_that_is_refused_or_locked_out_harms_no_other(database_url: str, waiting: Waiting) -> None:
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await insert(other, "any", unique_key="held")
        held = asyncio.create_task(waiting.run(columns_of([NewJob("echo", unique_key="held")]), 2))
        hostile = [NewJob(""), NewJob("any", priority=10**6), NewJob("any", unique_key="x" * 201),
                   NewJob("any", webhook_url="no URL"), NewJob("any", timeout=timedelta.max)]  # fmt: skip
        good = [NewJob("echo"), NewJob("echo", unique_key="free"), NewJob("echo", id=uuid4()), NewJob("echo")]
        with supervising(database_url):
            ends = await asyncio.gather(
                *(waiting.run(columns_of([job]), 10) for job in hostile + good), return_exceptions=True
            )
        assert [type(end) for end in ends[:5]] == [ValueRefused] * 5
        assert {end.status for end in ends[5:] if isinstance(end, Ended)} == {"succeeded"}
        with pytest.raises(WaitTimeout):
            await held
    await other.close()


async def test_a_connection_that_was_lost_meanwhile_costs_no_run(
    connection: Connection, database_url: str, waiting: Waiting
) -> None:
    with supervising(database_url):
        for _ in range(3):
            assert (await waiting.run(columns_of([NewJob("echo")]), 10)).status == "succeeded"
            await connection.execute(f"select pg_terminate_backend(pid) {SESSIONS.partition('count(*)')[2]}")


# Left behind --------------------------------------------------------------------------------------------------------


async def test_a_wait_that_ends_with_its_loop_takes_its_channel_back(connection: Connection, database_url: str) -> None:
    (job,) = await insert(connection, "any")

    async def is_left_at_the_end() -> None:
        waits = [asyncio.create_task(QUEUE.wait(job, url=database_url)) for _ in range(2)]
        await eventually(lambda: connected(database_url, "select waiters is not null from pushq.jobs"))
        assert not any(wait.done() for wait in waits)

    async def is_cancelled() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(QUEUE.wait(job, url=database_url), 0.3)

    async def times_out() -> None:
        with pytest.raises(WaitTimeout):
            await QUEUE.wait(job, timeout=0.3, url=database_url)

    async def is_cancelled_by_anyio() -> None:
        with anyio.move_on_after(0.3):
            await QUEUE.wait(job, url=database_url)

    for case in (is_left_at_the_end, is_cancelled, times_out, is_cancelled_by_anyio):
        await asyncio.to_thread(asyncio.run, case())
        assert await waiters(connection) == 0, case


async def connected(url: str, question: str) -> Any:
    own = await asyncpg.connect(url)
    try:
        return await own.fetchval(question)
    finally:
        await own.close()


async def test_a_command_that_waits_and_is_terminated_takes_its_channel_back(
    connection: Connection, database_url: str
) -> None:
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 1)):
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pushq", "enqueue", "any", "--wait", env=environment(database_url),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await eventually(lambda: waiters(connection))
        command.send_signal(number)
        _, said = await command.communicate()
        assert (command.returncode, b"No longer waiting" in said, b"Traceback" in said) == (code, True, False)
        assert await waiters(connection) == 0


# In time ------------------------------------------------------------------------------------------------------------


async def test_a_timeout_bounds_the_whole_call_and_names_the_job(
    connection: Connection, database_url: str, waiting: Waiting
) -> None:
    (job,) = await insert(connection, "any")
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("lock pushq.jobs in access exclusive mode")
        began = time.monotonic()
        calls = waiting.run(columns_of([NewJob("any")]), 1), waiting.wait(job, 1)
        run, wait = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - began < 2
    await other.close()
    assert isinstance(run, WaitTimeout)
    assert f"Job {run.job_id} was not finished within 1 s, and whether the job was inserted is unknown" in str(run)
    assert isinstance(wait, WaitTimeout)
    assert wait.job_id == job
    assert "The database has not told in time what the job is doing" in str(wait)


@pytest.mark.parametrize(
    ("seconds", "error"),
    [("5", TypeError), (True, TypeError), (0, ValueError), (-1.5, ValueError), (float("nan"), ValueError)],
)
async def test_a_timeout_that_is_no_time_is_refused_before_anything_is_done(
    connection: Connection, database_url: str, seconds: Any, error: type[Exception]
) -> None:
    for call in (QUEUE.run(NewJob("any"), timeout=seconds, url=database_url), QUEUE.wait(uuid4(), timeout=seconds)):
        with pytest.raises(error, match=f"timeout={seconds!r} is .*: give a number of seconds over 0, or None"):
            await call
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0


@pytest.mark.parametrize("seconds", [None, float("inf"), 10**400], ids=["none", "inf", "huge"])
async def test_a_timeout_without_an_end_is_no_limit(connection: Connection, waiting: Waiting, seconds: Any) -> None:
    (job,) = await insert(connection, "any")
    await connection.execute("select pushq.cancel($1)", job)
    assert (await waiting.wait(job, seconds)).status == "cancelled"


# Rights and places --------------------------------------------------------------------------------------------------


@pytest.fixture
async def producer_url(database_url: str, connection: Connection) -> AsyncIterator[str]:
    """The URL of a login that may insert jobs, and wait for them."""
    suffix = uuid4().hex[:8]
    printed = re.sub(r"pushq_(producer|worker|observer)\b", rf"pushq_\1_{suffix}", invoke("migrate", "--roles").stdout)
    await connection.execute(printed)
    await connection.execute(f"create role app_{suffix} login password 'secret' in role pushq_producer_{suffix}")
    parts = urlsplit(database_url)
    yield parts._replace(netloc=f"app_{suffix}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
    for role in (f"app_{suffix}", *(f"pushq_{role}_{suffix}" for role in ("producer", "worker", "observer"))):
        await connection.execute(f"drop owned by {role}; drop role {role}")


async def test_a_run_that_may_not_look_names_the_job_that_was_inserted(
    connection: Connection, producer_url: str
) -> None:
    with pytest.raises(DatabaseRefused, match="permission denied") as refused:
        await QUEUE.run(NewJob("any"), timeout=5, url=producer_url)
    job = await connection.fetchval("select id from pushq.jobs")
    assert refused.value.job_id == job
    assert str(refused.value).endswith(f"Job {job} was inserted all the same.")


async def test_a_command_waits_with_the_rights_that_the_page_names(
    connection: Connection, database_url: str, producer_url: str
) -> None:
    (grant,) = re.findall(
        r"`grant (select \(.*?\) on pushq.jobs) to app`", (ROOT / "docs/how-to/wait.md").read_text(), re.DOTALL
    )
    await connection.execute(f"grant {grant} to {urlsplit(producer_url).username}")
    with supervising(database_url):
        for task, payload, code, says in (
            ("echo", '{"a": 1}', 0, 'result          {"a": 1}\n'),
            ("fail", "{}", 1, "ValueError: no"),
        ):
            command = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pushq", "enqueue", task, "--payload", payload, "--wait",
                env=environment(producer_url), stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            output, _ = await command.communicate()
            assert command.returncode == code
            assert says in output.decode()


@pytest.mark.parametrize(
    ("url", "error"),
    [("mysql://u:secret@here/x", SettingsError), ("", SettingsError), (5, TypeError), (b"x", TypeError)],
)
async def test_a_url_that_cannot_be_used_is_refused_in_one_sentence(url: Any, error: type[Exception]) -> None:
    for call in (QUEUE.wait(uuid4(), timeout=1, url=url), QUEUE.run(NewJob("any"), timeout=1, url=url)):
        with pytest.raises(error, match=r"^(The database URL must |url is a str)") as refused:
            await call
        assert "secret" not in str(refused.value)


async def test_what_is_told_to_a_wait_is_not_told_to_the_loop_too(database_url: str) -> None:
    told = list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    url = f"{database_url}&sslmode=verify-full&sslrootcert=/nowhere".replace("?&", "?")
    with pytest.raises(SettingsError, match="is no file"):
        await QUEUE.wait(uuid4(), timeout=5, url=url)
    with pytest.raises(SettingsError, match="is no file"):
        await QUEUE.run(NewJob("any"), timeout=5, url=url)

    async def nobody_serves() -> bool:
        return not any(task.get_name().startswith("pushq waits") for task in asyncio.all_tasks())

    await eventually(nobody_serves)
    gc.collect()
    assert told == []


# Refused before anything is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [("a\0b", "a NUL character"), ("a\ud800", "a lone surrogate"), ("\ud800\\\udc00", "a lone surrogate")],
)
async def test_a_payload_that_jsonb_does_not_take_is_refused_with_a_remedy(
    connection: Connection, database_url: str, text: str, what: str
) -> None:
    says = f"payload of a 'any' job has text with {what}, which jsonb does not take: leave the character out"
    for insertion in (QUEUE.run(NewJob("any", {"a": [text]}), url=database_url),
                      QUEUE.insert(NewJob("any", {text: 1}), connection=connection)):  # fmt: skip
        with pytest.raises(PayloadError, match=says):
            await insertion
    assert await QUEUE.insert(NewJob("any", {"a": "\\u0000 \\ud800 \N{GRINNING FACE}"}), connection=connection)
