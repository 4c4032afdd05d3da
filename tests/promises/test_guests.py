"""Guests, workers that speak SQL, hold jobs as pools do: fenced by tokens, under a lease, each job once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq import Detach
from pushq.database.session import Session
from pushq.sweeper import Sweeper
from pushq.sweeper.store import Store
from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.metrics import scrape
from tests.support.supervisors import supervising
from tests.support.waiting import eventually


async def take_next(connection: Connection, worker: str = "anna", *more: Any) -> asyncpg.Record | None:
    asked = "".join(f", ${place}" for place in range(2, len(more) + 2))
    return await connection.fetchrow(f"select * from pushq.take_next('default', $1{asked})", worker, *more)


async def finish(connection: Connection, job: UUID, token: UUID | None, kind: str, **more: Any) -> bool:
    named = "".join(f", {name} => ${place}" for place, name in enumerate(more, 4))
    return bool(await connection.fetchval(f"select pushq.finish($1, $2, $3{named})", job, token, kind, *more.values()))


async def row_of(connection: Connection, job: UUID) -> asyncpg.Record:
    row = await connection.fetchrow("select * from pushq.jobs where id = $1", job)
    assert row
    return row


async def sweep_until_dead(url: str, within: float = 10) -> None:
    """As the sweeper of any supervisor does."""
    session = Session(url, "test")
    sweeper = Sweeper(Store(session), retention=604800)

    async def is_dead() -> bool:
        await sweeper.sweep()
        (row,) = await session.fetch("select count(*) as n from pushq.supervisors")
        return bool(row["n"] == 0)

    await eventually(is_dead, within=within)
    await session.close()


# Outcomes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "failures", "is_due"),
    [
        ("succeeded", "succeeded", 0, None),
        ("failed", "failed", 1, None),
        ("cancelled", "cancelled", 0, None),
        ("retried", "queued", 1, False),
        ("snoozed", "queued", 0, False),
        ("released", "queued", 0, True),
    ],
)
async def test_a_guest_ends_a_job_or_gives_it_back(
    connection: Connection, kind: str, status: str, failures: int, is_due: bool | None
) -> None:
    (job,) = await insert(connection, "any", payload={"value": 1}, max_attempts=1)
    taken = await take_next(connection)
    assert taken
    assert (taken["id"], taken["task"], taken["payload"], taken["attempt"]) == (job, "any", '{"value": 1}', 1)
    assert await finish(connection, job, taken["token"], kind, result="[1]", error="why", delay=timedelta(hours=1))

    row = await row_of(connection, job)
    assert (row["status"], row["failures"], row["attempt"], row["crashes"]) == (status, failures, 1, 0)
    assert row["error"] == "why"
    assert row["result"] == ("[1]" if is_due is None else None)
    if is_due is not None:
        assert (await take_next(connection) is not None) == is_due
    elif kind == "succeeded":
        tallies = await connection.fetch("select outcome, jobs, run_bucket from pushq.tally_log")
        assert [(one["outcome"], one["jobs"], one["run_bucket"] >= 0) for one in tallies] == [("succeeded", 1, True)]


async def test_a_failure_without_an_error_says_so_and_a_long_error_is_cut(connection: Connection) -> None:
    for error, kept in ((None, "failed"), ("x" * 20_000, "x" * 10_000)):
        (job,) = await insert(connection, "any")
        taken = await take_next(connection)
        assert taken
        await finish(connection, job, taken["token"], "failed", error=error)
        assert (await row_of(connection, job))["error"] == kept


async def test_an_outcome_counts_once_and_only_under_the_token(connection: Connection) -> None:
    (job,) = await insert(connection, "any")
    taken = await take_next(connection)
    assert taken
    for token in (uuid4(), None):
        assert not await finish(connection, job, token, "succeeded")
        assert not await finish(connection, job, token, "retried")
    assert (await row_of(connection, job))["status"] == "running"
    assert not await finish(connection, uuid4(), taken["token"], "succeeded")
    assert await finish(connection, job, taken["token"], "succeeded")
    assert not await finish(connection, job, taken["token"], "failed")
    assert (await row_of(connection, job))["status"] == "succeeded"


# Taking -------------------------------------------------------------------------------------------------------------


async def test_guests_and_pools_on_one_queue_run_each_job_once(connection: Connection, database_url: str) -> None:
    jobs = await insert(connection, "sleep", 200, payload={"seconds": 0.01})

    async def guest(name: str) -> Counter[UUID]:
        mine, ran = await asyncpg.connect(database_url), Counter[UUID]()
        while taken := await take_next(mine, name):
            ran[taken["id"]] += 1
            assert await finish(mine, taken["id"], taken["token"], "succeeded", result='"guest"')
        await mine.close()
        return ran

    with supervising(database_url, "--concurrency", "1"):
        ran = sum(await asyncio.gather(*(guest(f"guest {n}") for n in range(4))), Counter[UUID]())
        rows = await finished(connection, *jobs)
    assert {row["attempt"] for row in rows} == {1}
    assert set(ran.values()) == {1}
    assert {row["id"] for row in rows if row["result"] == '"guest"'} == set(ran)
    assert 0 < len(ran) < 200


async def test_the_next_job_is_the_most_urgent_that_a_pool_would_take(connection: Connection) -> None:
    (later,) = await insert(connection, "zeta")
    await connection.execute("update pushq.jobs set run_at = now() + interval '1 hour' where id = $1", later)
    (plain,) = await insert(connection, "m")
    (urgent,) = await insert(connection, "z", priority=-1)
    (lazy,) = await insert(connection, "a", priority=1)
    await insert(connection, "elsewhere", queue="other")
    suspects = await insert(connection, "suspect")
    await connection.execute("update pushq.jobs set crashes = 2 where id = any($1)", suspects)
    suspect = await take_next(connection)
    assert suspect
    assert suspect["id"] == suspects[0]
    assert await take_next(connection) is None  # beside a suspect, nothing else
    await finish(connection, suspect["id"], suspect["token"], "succeeded")
    order = [(await take_next(connection) or {"id": None})["id"] for _ in range(4)]
    assert order == [urgent, plain, lazy, None]

    await connection.execute(
        "select pushq.pause('default'); update pushq.jobs_unfinished set status = 'queued', token = null"
    )
    assert await take_next(connection) is None


async def test_a_guest_may_ask_for_some_tasks(connection: Connection) -> None:
    await insert(connection, "a")
    (wanted,) = await insert(connection, "b")
    lease = timedelta(minutes=1)
    assert (await take_next(connection, "anna", lease, ["c", "b"]) or {"id": None})["id"] == wanted
    assert await take_next(connection, "anna", lease, ["c", "b"]) is None
    assert await take_next(connection, "anna", lease, []) is None


async def test_take_takes_any_queued_job_and_no_other(connection: Connection) -> None:
    (job,) = await insert(connection, "any", queue="paused")
    await connection.execute("select pushq.pause('paused'); update pushq.jobs set run_at = now() + interval '1 hour'")
    token = await connection.fetchval("select pushq.take($1, 'anna')", job)
    assert token
    assert await connection.fetchval("select pushq.take($1, 'berta')", job) is None
    assert await finish(connection, job, token, "succeeded")
    assert await connection.fetchval("select pushq.take($1, 'berta')", job) is None
    assert await connection.fetchval("select pushq.take($1, 'berta')", uuid4()) is None


async def test_a_large_payload_comes_whole(connection: Connection) -> None:
    await insert(connection, "any", payload={"text": "x" * 200_000})
    taken = await take_next(connection)
    assert taken
    assert len(taken["payload"]) > 200_000


async def test_tasks_of_a_backlog_cost_a_look_each(connection: Connection) -> None:
    await connection.execute(
        "insert into pushq.jobs (task, priority) select 'task ' || n % 5, n % 3 - 1 from generate_series(1, 20000) as n"
    )
    await connection.execute("vacuum analyze pushq.jobs_unfinished")
    tasks = await connection.fetchval("select pushq.tasks_in('default')")
    assert tasks == [f"task {n}" for n in range(5)]
    await connection.execute("select pg_stat_force_next_flush()")
    before = "select sum(idx_tup_read)::int from pg_stat_user_indexes where relname = 'jobs_unfinished'"
    read = await connection.fetchval(before)
    await connection.execute("select pushq.tasks_in('default'), pg_stat_force_next_flush()")
    assert await connection.fetchval(before) - read < 50


# Leases -------------------------------------------------------------------------------------------------------------


async def test_a_guest_that_dies_loses_its_jobs_for_a_crash_and_its_late_outcome_is_refused(
    connection: Connection, database_url: str
) -> None:
    (job,) = await insert(connection, "any")
    taken = await take_next(connection, "anna", timedelta(seconds=0.2))
    assert taken
    await sweep_until_dead(database_url)
    row = await row_of(connection, job)
    assert (row["status"], row["crashes"]) == ("queued", 1)
    assert not await finish(connection, job, taken["token"], "succeeded")
    assert not await connection.fetchval("select pushq.extend($1, $2)", job, taken["token"])
    again = await take_next(connection, "berta")
    assert again
    assert not await finish(connection, job, taken["token"], "succeeded")
    assert await finish(connection, job, again["token"], "succeeded")


async def test_the_job_of_a_guest_that_another_sweeper_has_declared_dead_is_charged_a_crash(
    connection: Connection, database_url: str
) -> None:
    (job,) = await insert(connection, "any")
    assert await take_next(connection, "anna")
    await connection.execute("delete from pushq.supervisors")  # by a sweeper that has not come to its jobs yet
    session = Session(database_url, "test")
    sweeper = Sweeper(Store(session), retention=604800)

    async def is_requeued() -> bool:
        return (await sweeper.sweep()).requeued == 1

    await eventually(is_requeued)
    await session.close()
    assert (await row_of(connection, job))["crashes"] == 1


async def test_a_guest_is_warned_first_by_whatever_sweeper_comes(connection: Connection, database_url: str) -> None:
    """Each sweeper lives for one sweep: none watches for a whole lease."""
    (job,) = await insert(connection, "any")
    taken = await take_next(connection, "anna", timedelta(seconds=0.4))
    assert taken

    async def is_dead() -> bool:
        session = Session(database_url, "test")
        sweeper = Sweeper(Store(session), retention=604800)
        await sweeper.observe()
        await sweeper.sweep()
        await session.close()
        return bool((await row_of(connection, job))["status"] == "queued")

    await eventually(is_dead)
    assert (await row_of(connection, job))["crashes"] == 1


async def test_a_guest_whose_database_was_away_for_long_comes_back(connection: Connection, database_url: str) -> None:
    (job,) = await insert(connection, "any")
    taken = await take_next(connection, "anna", timedelta(minutes=5))
    assert taken
    away = "update pushq.supervisors set lease_until = clock_timestamp() - interval '1 hour'"
    await connection.execute(away)
    with supervising(database_url, SWEEP_INTERVAL="0.1"):
        await finished(connection, *await insert(connection, "echo"))
        await eventually(
            lambda: connection.fetchval("select pid = -1 from pushq.supervisors where name = 'guest:anna'")
        )
        assert await connection.fetchval("select pushq.extend($1, $2)", job, taken["token"])
        assert await connection.fetchval("select pid from pushq.supervisors where name = 'guest:anna'") == 0
    assert await finish(connection, job, taken["token"], "succeeded")


async def test_a_guest_that_lost_its_jobs_to_a_cancel_is_forgotten_after_its_lease(
    connection: Connection, database_url: str
) -> None:
    (job,) = await insert(connection, "any")
    await take_next(connection, "anna", timedelta(seconds=0.1))
    assert await connection.fetchval("select pushq.cancel($1)", job) == "cancelled"
    await sweep_until_dead(database_url)


async def test_jobs_that_crash_with_guests_alone_fail_after_the_third(
    connection: Connection, database_url: str
) -> None:
    (job,) = await insert(connection, "any")
    for crashes in (1, 2, 3):
        taken = await take_next(connection, f"guest {crashes}", timedelta(seconds=0.05))
        assert taken
        await sweep_until_dead(database_url)
        assert (await row_of(connection, job))["crashes"] == crashes
    assert (await row_of(connection, job))["status"] == "failed"


async def test_a_payload_that_cannot_be_read_fails_and_the_next_is_taken(connection: Connection) -> None:
    await connection.execute(
        """insert into pushq.jobs (task, payload, queue)
        select 'any', ('{"a": [' || repeat('1e100000, ', 30) || '1]}')::jsonb, 'default' from generate_series(1, 3)"""
    )
    (good,) = await insert(connection, "any")
    taken = await take_next(connection)
    assert taken
    assert taken["id"] == good
    rows = await connection.fetch("select status, error from pushq.jobs where id <> $1", good)
    assert {(row["status"], row["error"]) for row in rows} == {
        ("failed", "PayloadError: its numbers have too many digits; send them as strings")
    }


async def test_names_that_guests_take_are_not_kept(connection: Connection) -> None:
    """They come from producers."""
    for job in await insert(connection, "any", 3, queue="producer's"):
        await connection.fetchval("select pushq.take($1, 'anna')", job)
    assert await connection.fetchval("select count(*) from pushq.queues") == 0
    assert await connection.fetchval("select count(*) from pushq.tasks") == 0


async def test_a_job_that_a_pool_is_about_to_detach_is_still_held(connection: Connection, database_url: str) -> None:
    with supervising(database_url):
        (job,) = await insert(connection, "detach.late", payload={"seconds": 1})
        running = "select token from pushq.jobs where id = $1 and status = 'running'"
        token = await eventually(lambda: connection.fetchval(running, job))
        assert await connection.fetchval("select pushq.extend($1, $2)", job, token)
        assert not await connection.fetchval("select pushq.extend($1, $2)", job, uuid4())


async def test_a_guest_that_extends_its_lease_keeps_its_job(connection: Connection, database_url: str) -> None:
    (job,) = await insert(connection, "any")
    taken = await take_next(connection, "anna", timedelta(seconds=0.5))
    assert taken
    session = Session(database_url, "test")
    sweeper = Sweeper(Store(session), retention=604800)
    for _ in range(8):
        await sweeper.sweep()
        await asyncio.sleep(0.2)
        extended = "select pushq.extend($1, $2, '0.5 s')"
        assert await connection.fetchval(extended, job, taken["token"])
    await session.close()
    assert await finish(connection, job, taken["token"], "succeeded")


async def test_a_lease_is_never_shortened_by_another_job_of_the_worker(connection: Connection) -> None:
    await insert(connection, "any", 2)
    await take_next(connection, "anna", timedelta(hours=1))
    await take_next(connection, "anna", timedelta(seconds=1))
    left = "select lease_until > now() + interval '50 minutes' from pushq.supervisors where name = 'guest:anna'"
    assert await connection.fetchval(left)


async def test_a_guest_has_a_row_only_while_it_holds_jobs_and_counts_as_no_supervisor(
    connection: Connection, database_url: str
) -> None:
    guests = "select array_agg(name order by name) from pushq.supervisors where pid = 0"
    assert await take_next(connection) is None
    assert await connection.fetchval("select pushq.take($1, 'anna')", uuid4()) is None
    assert await connection.fetchval(guests) is None
    jobs = await insert(connection, "any", 2)
    taken = [await take_next(connection) for _ in jobs]
    for place, one in enumerate(taken):
        assert await connection.fetchval(guests) == ["guest:anna"]
        assert one
        if place == 0:
            with supervising(database_url) as supervisor:
                assert scrape(supervisor, "pushq_supervisors") == 1
        await finish(connection, one["id"], one["token"], "succeeded")
    assert await connection.fetchval(guests) is None


async def test_many_guests_that_take_and_finish_at_once_never_deadlock(
    connection: Connection, database_url: str
) -> None:
    """The guest's row is locked before its jobs, whoever begins."""
    await insert(connection, "any", 200)

    async def work(worker: str) -> int:
        mine, done = await asyncpg.connect(database_url), 0
        while taken := await take_next(mine, worker):
            kind = "released" if taken["attempt"] % 3 == 1 else "succeeded"
            done += await finish(mine, taken["id"], taken["token"], kind) and kind == "succeeded"
        await mine.close()
        return done

    done = await asyncio.gather(*(work(worker) for worker in ("anna", "anna", "anna", "berta", "berta")))
    assert sum(done) == 200
    await has_count(connection, 200, "status = 'succeeded'")


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("take_next('default', '')", "a worker has a name of 1 to 190 characters, not ''"),
        ("take_next('default', null)", "a worker has a name of 1 to 190 characters, not NULL"),
        (
            "take_next('default', 'anna', '0')",
            "a lease is over 0 and at most a year, for example '5 minutes', not 0",
        ),
        ("take_next('default', 'anna', null)", "not null"),
        ("take(gen_random_uuid(), repeat('x', 191))", "a worker has a name of 1 to 190 characters"),
        ("extend(gen_random_uuid(), gen_random_uuid(), '2 years')", "at most a year"),
        ("finish(gen_random_uuid(), gen_random_uuid(), 'done')", "'done' is no outcome; give succeeded, failed, "),
        ("finish(gen_random_uuid(), gen_random_uuid(), null)", "NULL is no outcome"),
        ("finish(gen_random_uuid(), gen_random_uuid(), 'retried', delay => '-1 s')", "a delay is between 0 and a year"),
        ("finish(gen_random_uuid(), gen_random_uuid(), 'retried', delay => null)", "not null"),
    ],
)
async def test_a_wrong_argument_is_refused_in_a_sentence(connection: Connection, call: str, says: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await connection.execute(f"select pushq.{call}")
    assert says in str(refused.value)


async def test_a_guest_does_not_take_the_name_of_a_supervisor(connection: Connection) -> None:
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('guest:anna', 'h', 1, '1 h', now())"
    )
    with pytest.raises(asyncpg.UniqueViolationError, match="a supervisor has the name 'guest:anna'"):
        await take_next(connection)


# Detached jobs ------------------------------------------------------------------------------------------------------


async def held_by_guest(connection: Connection, job: UUID) -> UUID:
    held = "select token from pushq.jobs where id = $1 and supervisor = 'guest:' || id"
    return UUID(str(await eventually(lambda: connection.fetchval(held, job))))


async def test_a_detached_job_takes_no_worker_and_outlives_its_pool(connection: Connection, database_url: str) -> None:
    with supervising(database_url, "--concurrency", "1") as supervisor:
        (job,) = await insert(connection, "detach", payload={"seconds": 60})
        token = await held_by_guest(connection, job)
        await finished(connection, *await insert(connection, "echo"))
        assert supervisor.stop() == 0
        assert "released=0" in supervisor.said
    row = await row_of(connection, job)
    assert (row["status"], row["token"], row["attempt"]) == ("running", token, 1)
    with supervising(database_url):
        assert await connection.fetchval("select pushq.extend($1, $2, '2 minutes')", job, token)
        assert await finish(connection, job, token, "succeeded", result='"elsewhere"')
        (row,) = await finished(connection, job)
    assert (row["result"], row["attempt"], row["crashes"]) == ('"elsewhere"', 1, 0)
    assert await connection.fetchval("select count(*) from pushq.supervisors where pid = 0") == 0


async def test_a_detached_job_that_nobody_ends_runs_again_for_a_crash(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url, SWEEP_INTERVAL="0.2"):
        (job,) = await insert(connection, "detach", payload={"seconds": 0.3, "times": 1})
        (row,) = await finished(connection, job)
    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 2, 1)


async def test_an_outcome_from_outside_that_comes_before_the_detachment_counts(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url) as supervisor:
        (job,) = await insert(connection, "detach.late", payload={"seconds": 1})
        token = await eventually(
            lambda: connection.fetchval("select token from pushq.jobs where id = $1 and status = 'running'", job)
        )
        assert await finish(connection, job, UUID(str(token)), "succeeded")
        await finished(connection, job)
        await finished(connection, *await insert(connection, "echo"))
        assert supervisor.stop() == 0
    assert await connection.fetchval("select count(*) from pushq.supervisors where pid = 0") == 0


@pytest.mark.parametrize("lease", [timedelta(0), timedelta(seconds=-1), timedelta(days=366), 5, None])
def test_detach_refuses_a_lease_that_is_none(lease: Any) -> None:
    with pytest.raises(ValueError, match="a lease is a timedelta over 0 and at most a year"):
        Detach(lease=lease)
