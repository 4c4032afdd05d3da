"""What a stranger has made under the names that pushq's SQL uses is never called and never read.

Whoever may create something in a schema of somebody's search_path, or makes a temporary object in a session of its own,
could otherwise have it called with the rights of whoever inserts, claims, or owns the schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from pushq.database.migrate import migrate
from pushq.database.session import Session
from pushq.errors import UnexpectedState
from pushq.pool.store import Claimant
from tests.security.traps import SCHEMA, set_traps, set_traps_in, were_tripped
from tests.support.commands import invoke
from tests.support.jobs import Connection, count, finished, insert
from tests.support.roles import Logins
from tests.support.store import Store
from tests.support.supervisors import supervising

TRAPPED = f"{SCHEMA}, pg_catalog"
INSERTS = (
    "insert into pushq.jobs (task) values ('echo')",
    "insert into pushq.jobs (task, payload) values ('echo', '{\"a\": 1}') returning id",
    "insert into pushq.jobs (task, unique_key) values ('echo', 'key') on conflict do nothing",
    "insert into pushq.jobs (task, unique_key) values ('echo', 'key') on conflict do nothing",
    """insert into pushq.jobs (task, queue, priority, run_at, max_attempts, timeout, tenant_id, correlation_id)
    values ('echo', 'mail', 5, '2026-01-01 00:00:00+00', 3, '1 s', 'a', 'b')""",
)


@asynccontextmanager
async def trapped(login: str, logins: Logins, owner: Connection) -> AsyncIterator[Connection]:
    """A connection whose search_path begins with traps, and whose temporary schema is full of them."""
    connection = await asyncpg.connect(logins.url_as(login))
    await set_traps_in("pg_temp", connection, owner)
    await connection.execute(f"set search_path = {TRAPPED}")
    with pytest.raises(asyncpg.RaiseError, match="hijacked: now"):
        await connection.execute("select now()")
    await owner.execute(f"select setval('{SCHEMA}.canary', 1, false)")
    yield connection
    await connection.close()


async def ring_always(owner: Connection) -> None:
    await owner.execute(
        "select setval(pushq.gate(queue), pushq.gate_clock() + 60000) from unnest('{default,mail}'::text[]) as queue"
    )


async def test_an_insert_calls_nothing_of_the_producer_s_making(connection: Connection, logins: Logins) -> None:
    await set_traps(connection)
    await ring_always(connection)
    heard: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("pushq", lambda *said: heard.put_nowait(said[-1]))
    async with trapped("producer", logins, connection) as producer:
        for statement in INSERTS:
            await producer.execute(statement)

    assert await count(connection) == len(INSERTS) - 1
    rung = [await asyncio.wait_for(heard.get(), 10) for _ in range(len(INSERTS) - 1)]
    assert rung == ["default"] * 3 + ["mail"]
    assert not await were_tripped(connection)


async def test_the_functions_call_nothing_of_their_caller_s_making(connection: Connection, logins: Logins) -> None:
    """Two of them act with their owner's rights."""
    await set_traps(connection)
    [cancelled] = await insert(connection, "echo")
    newest = await connection.fetchval(
        "delete from pushq.days where day = (select max(day) from pushq.days) returning day"
    )
    await connection.execute(f"drop table pushq.jobs_{newest:%Y_%m_%d}")
    async with trapped("worker", logins, connection) as worker:
        for call, did in (
            (f"pushq.cancel('{cancelled}')", "cancelled"),
            (f"pushq.retry('{cancelled}')", "queued"),
            (f"pushq.retry('{cancelled}')", "queued"),
            (f"pushq.cancel('{uuid4()}')", "unknown"),
            ("pushq.pause('mail')", "paused"),
            ("pushq.resume('mail')", "resumed"),
            ("pushq.ring('mail')", "rung"),
            ("pushq.label('mail', 'mail.welcome')", True),
        ):
            assert await worker.fetchval(f"select {call}") == did
        await worker.fetchval("select pushq.ring_if_idle('mail')")
        await worker.fetch("select pushq.make_days(5)")
        await worker.fetch("select pushq.retire_days('1 day')")

    assert not await were_tripped(connection)


async def test_a_supervisor_calls_nothing_that_its_role_s_search_path_finds_first(
    connection: Connection, logins: Logins
) -> None:
    await set_traps(connection)
    await connection.execute(f"alter role {logins.name('worker')} set search_path = {TRAPPED}")
    url = logins.url_as("worker")
    with supervising(url) as supervisor:
        jobs = [job for task in ("echo", "fail", "die.once", "snooze") for job in await insert(connection, task)]
        await connection.execute("update pushq.jobs_unfinished set payload = '{\"times\": 1}' where task = 'snooze'")
        await finished(connection, *jobs)
        waits, *_ = await insert(connection, "unheard.of")
        for command in (
            *(["jobs"], ["jobs", "show", str(waits)], ["jobs", "cancel", str(waits)], ["jobs", "retry", str(waits)]),
            *(["queues"], ["queues", "pause", "mail"], ["queues", "resume", "mail"], ["migrate", "--check"]),
            ["enqueue", "echo"],
        ):
            ended = await asyncio.to_thread(invoke, *command, url=url)
            assert ended.exit_code == 0, (command, ended.stderr)
        assert (await asyncio.to_thread(supervisor.get, "/metrics"))[0] == 200
        assert await asyncio.to_thread(supervisor.stop) == 0
        assert "lost" not in supervisor.said

    assert not await were_tripped(connection)


async def test_migrations_call_nothing_that_their_role_s_search_path_finds_first(
    empty_database_url: str, database_url: str
) -> None:
    owner = await asyncpg.connect(empty_database_url)
    named = await asyncpg.connect(database_url)  # where there is SQL of pushq's, to take the names from
    await owner.execute(f"create schema {SCHEMA}; create sequence {SCHEMA}.canary")
    await set_traps_in(SCHEMA, owner, named)
    database = await owner.fetchval("select current_database()")
    await owner.execute(f"alter database {database} set search_path = {TRAPPED}")
    await migrate(empty_database_url)

    assert not await were_tripped(owner)
    await owner.execute("insert into pushq.jobs (task) values ('echo')")
    assert not await were_tripped(owner)
    await owner.close()
    await named.close()


# Controls: with a rule taken away, the traps do catch ----------------------------------------------------------


async def test_the_traps_catch_a_session_that_does_not_say_its_search_path(
    connection: Connection, database_url: str
) -> None:
    await set_traps(connection)
    careless = Session(database_url, "careless", settings={"search_path": TRAPPED})
    with pytest.raises(UnexpectedState):
        await Store(careless).claim(Claimant("somebody", 1, ("default",), ("echo",)), uuid4(), 1)
    with pytest.raises(UnexpectedState):
        await Store(careless).heartbeat("somebody", "host", 1, 30.0)
    await careless.close()


RING_BELL = """
    create or replace function pushq.ring_bell(queue text) returns boolean language plpgsql as $$
    begin
        perform pg_notify('pushq', queue);
        return true;
    end
    $$
"""


@pytest.mark.parametrize(
    ("careless", "login", "statement"),
    [
        (RING_BELL, "producer", INSERTS[0]),
        ("alter function pushq.make_days(int) reset search_path", "worker", "select pushq.make_days(5)"),
        ("alter function pushq.retire_days(interval) reset search_path", "worker", "select pushq.retire_days('1 day')"),
        ("alter function pushq.cancel(uuid, text) reset search_path", "worker", f"select pushq.cancel('{uuid4()}')"),
        ("alter function pushq.retry(uuid, text) reset search_path", "worker", f"select pushq.retry('{uuid4()}')"),
    ],
    ids=["ring_bell", "make_days", "retire_days", "cancel", "retry"],
)
async def test_the_traps_catch_a_function_that_finds_names_by_its_caller_s_search_path(
    connection: Connection, logins: Logins, careless: str, login: str, statement: str
) -> None:
    await set_traps(connection)
    await ring_always(connection)
    await connection.execute(careless)
    async with trapped(login, logins, connection) as stranger:
        with pytest.raises(asyncpg.PostgresError):  # of a trap, or of a name that is not what it seems
            await stranger.execute(statement)
