"""A claim goes by rows as they are when it has locked them: whoever changes a job before that is heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from tests.support.jobs import Connection, insert
from tests.support.notifications import hearing, open_gate
from tests.support.planting import spoiled
from tests.support.waiting import eventually

WANTED = "'{default}', '{echo}', 'host', 9, '-infinity', clock_timestamp(), 9, true, null, null, null"
CLAIM = f"select id from pushq.hand_out(pushq.lock_claimable({WANTED}), 'host', 1, gen_random_uuid(), '{{}}')"
FITTING = "pushq.lock_suspect('default', '{echo}', 'guest:1')"
SUSPECT = f"select id from pushq.hand_out({FITTING}, 'host', 1, gen_random_uuid(), '{{}}')"
LIMIT = (
    "insert into pushq.queues (name, capacity) values ('default', $1) on conflict (name) do update set capacity = $1"
)
PAUSE = "perform pg_advisory_xact_lock(4711); "
PAUSES = {
    "after the guess": ("pushq.lock_fitting", "    with its as materialized ("),
    "before the lock": ("pushq.lock_queued", "    while cardinality(locked) <"),
}
"""Where a claim stops until it may go on: a function, and the place before which it stops."""
CHANGES = {
    "a limit that is closed is stamped": (
        LIMIT.replace("$1", "0"),
        "select pushq.stamp()",
    ),
    "what it needs is closed": ("update pushq.jobs set needs = '{\"closed\": 1}' where id = $1",),
    "it is put off": ("select pushq.reschedule($1, now() + interval '1 day')",),
    "it is moved to another queue": ("update pushq.jobs set queue = 'elsewhere' where id = $1",),
    "it becomes another task's": ("update pushq.jobs set task = 'another' where id = $1",),
    "it is cancelled": ("select pushq.cancel($1)",),
}


@pytest.fixture
async def claimer(database_url: str, connection: Connection) -> AsyncIterator[Connection]:
    """Another session, for a supervisor whose lease is live."""
    await connection.execute("insert into pushq.resources (name, capacity) values ('closed', 0)")
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues)"
        " values ('host', 'here', 1, '1 hour', now() + interval '1 hour', '{echo}', '{default}')"
    )
    other = await asyncpg.connect(database_url)
    yield other
    await other.close()


@pytest.fixture
async def stamper(database_url: str) -> AsyncIterator[Connection]:
    other = await asyncpg.connect(database_url)
    yield other
    await other.close()


async def change(connection: Connection, job: UUID, statements: tuple[str, ...]) -> None:
    for statement in statements:
        await connection.execute(statement, *([job] if "$1" in statement else []))


async def waits(connection: Connection, claimer: Connection) -> bool:
    event = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
    return bool(await connection.fetchval(event, claimer.get_server_pid()))


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("kind", ["lane", "suspect"])
async def test_a_job_that_changes_while_it_is_claimed_does_not_run_as_it_was(
    connection: Connection, claimer: Connection, kind: str, pause: str, what: str
) -> None:
    [job] = await insert(connection, "echo", needs={"thing": 1})
    if kind == "suspect":
        await connection.execute("update pushq.jobs set crashes = 2 where id = $1", job)
    function, place = PAUSES[pause]
    async with spoiled(connection, function, place, PAUSE + place):
        await connection.execute("select pg_advisory_lock(4711)")
        claim = asyncio.create_task(claimer.fetch(CLAIM if kind == "lane" else SUSPECT))
        await eventually(lambda: waits(connection, claimer))
        await change(connection, job, CHANGES[what])
        await connection.execute("select pg_advisory_unlock(4711)")

        assert await claim == []


@pytest.mark.parametrize("pause", PAUSES)
async def test_a_job_that_was_passed_over_since_it_changed_is_claimed_by_the_next_look(
    connection: Connection, claimer: Connection, pause: str
) -> None:
    [job, other] = await insert(connection, "echo", 2, needs={"thing": 1})
    await connection.execute("update pushq.resources set capacity = 9 where name = 'closed'")
    await connection.execute("insert into pushq.resources (name, capacity) values ('thing', 9)")
    function, place = PAUSES[pause]
    async with spoiled(connection, function, place, PAUSE + place):
        await connection.execute("select pg_advisory_lock(4711)")
        claim = asyncio.create_task(claimer.fetch(CLAIM))
        await eventually(lambda: waits(connection, claimer))
        await connection.execute("update pushq.jobs set needs = '{\"closed\": 1}' where id = $1", job)
        await connection.execute("select pg_advisory_unlock(4711)")

        first = [row["id"] for row in await claim]
        assert first + [row["id"] for row in await claimer.fetch(CLAIM)] in ([other, job], [job, other])


async def test_running_jobs_are_stamped_before_a_claim_counts_or_after_its_commit(
    connection: Connection, claimer: Connection, stamper: Connection
) -> None:
    await insert(connection, "echo")
    assert len(await claimer.fetch(CLAIM)) == 1
    await connection.execute(LIMIT, 1)
    await insert(connection, "echo")  # with the limit among its needs
    function, place = PAUSES["before the lock"]
    async with spoiled(connection, function, place, PAUSE + place):
        await connection.execute("select pg_advisory_lock(4711)")
        claim = asyncio.create_task(claimer.fetch(CLAIM))  # has counted none
        await eventually(lambda: waits(connection, claimer))
        stamped = asyncio.create_task(stamper.fetchval("select stamped from pushq.stamp()"))
        await eventually(lambda: waits(connection, stamper))
        assert not stamped.done()
        await connection.execute("select pg_advisory_unlock(4711)")

        assert len(await claim) == 1
        assert await stamped == 1


async def test_queued_jobs_are_stamped_while_a_claim_counts(connection: Connection, claimer: Connection) -> None:
    [job] = await insert(connection, "other")
    await connection.execute(LIMIT, 1)
    await insert(connection, "echo")
    function, place = PAUSES["before the lock"]
    async with spoiled(connection, function, place, PAUSE + place):
        await connection.execute("select pg_advisory_lock(4711)")
        claim = asyncio.create_task(claimer.fetch(CLAIM))
        await eventually(lambda: waits(connection, claimer))

        assert await connection.fetchval("select stamped from pushq.stamp()") == 1
        await connection.execute("select pg_advisory_unlock(4711)")
        assert len(await claim) == 1
    assert "queue:default" in await connection.fetchval("select needs from pushq.jobs where id = $1", job)


async def test_a_limit_that_is_gone_again_when_jobs_are_stamped_writes_to_none(
    connection: Connection, claimer: Connection
) -> None:
    [job] = await insert(connection, "echo")
    version = await connection.fetchval("select xmin::text from pushq.jobs where id = $1", job)
    await connection.execute(LIMIT, 3)
    place = "    update pushq.jobs_unfinished as job set needs"
    async with spoiled(connection, "pushq.stamp", place, PAUSE + place):
        await connection.execute("select pg_advisory_lock(4711)")
        stamped = asyncio.create_task(claimer.fetchval("select stamped from pushq.stamp()"))
        await eventually(lambda: waits(connection, claimer))
        await connection.execute(LIMIT, None)
        await connection.execute("select pg_advisory_unlock(4711)")

        assert await stamped == 0
        assert await connection.fetchval("select xmin::text from pushq.jobs where id = $1", job) == version


async def test_whoever_changes_what_a_queued_job_needs_rings(database_url: str, connection: Connection) -> None:
    """Since a claim may have passed the job over."""
    [job] = await insert(connection, "echo", needs={"thing": 1})
    await open_gate(connection)
    async with hearing(database_url) as ear:
        await connection.execute('update pushq.jobs set needs = \'{"thing": 1, "closed": 1}\' where id = $1', job)

        assert await ear.take() == ["default"]
