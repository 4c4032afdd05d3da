"""The program and the schema are of different versions, or many migrate at once: refused in a sentence, or it works."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess

import anyio
import asyncpg
import pytest
from click.testing import Result

from pushq import NewJob, Queue
from pushq.database.migrate import LOCK, migrate, migrations, missing
from tests.support.catalogue import catalogue
from tests.support.commands import invoke
from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

EARLIER = [migration.version for migration in migrations()[:-1]]
NEWEST = migrations()[-1].version
JOB = "00000000-0000-7000-8000-000000000000"

# In an order in which each has something to do. Beside each: the first schema that has all that it uses.
COMMANDS: Mapping[Sequence[str], int] = {
    ("supervise", "tests.support.handlers:tasks", "--http-port", "0"): NEWEST,
    ("exporter", "--http-port", "0"): NEWEST,
    ("sweep", "--lease", "0.3", "--heartbeat-interval", "0.1"): NEWEST,
    ("enqueue", "echo"): 17,
    ("jobs", "show", JOB): 23,
    ("jobs", "list"): 12,
    ("queues", "list"): 17,
    ("jobs", "cancel", JOB): 6,
    ("jobs", "retry", JOB): 6,
    ("queues", "pause", "mail"): 6,
    ("queues", "resume", "mail"): 6,
}
UNKNOWN = "pushq: The job is queued, and waits: no supervisor has ever known a task 'echo'.\n"
UNSERVED = "pushq: No supervisor has served queue 'mail' yet.\n"
CHECKED_FIRST = ("supervise", "exporter", "sweep")


# An older schema ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", EARLIER)
def test_an_older_schema_is_refused_in_a_sentence_that_names_the_remedy_by_whatever_it_does_not_suffice_for(
    empty_database_url: str, version: int
) -> None:
    asyncio.run(_prepare(empty_database_url, version))
    lacks = ", ".join(migration.name for migration in migrations()[version:])

    for command, needs in COMMANDS.items():
        ended = invoke(*command, url=empty_database_url)
        if version < needs:
            assert f"lacks {lacks}; run `pushq migrate`." in ended.stderr, command
            assert _is_one_sentence(ended), command
        else:
            assert (ended.exit_code, ended.stderr.replace(UNKNOWN, "").replace(UNSERVED, "")) == (0, ""), command


async def test_what_was_inserted_into_an_older_schema_runs_once_it_is_migrated(empty_database_url: str) -> None:
    await _prepare(empty_database_url, EARLIER[0])
    await migrate(empty_database_url)
    async with _connected(empty_database_url) as connection:
        with supervising(empty_database_url):
            rows = await finished(
                connection, *[row["id"] for row in await connection.fetch("select id from pushq.jobs")]
            )

    assert [row["status"] for row in rows] == ["succeeded"]


async def _prepare(url: str, version: int) -> None:
    """A schema of that version, with a job."""
    async with _connected(url) as connection:
        for migration in migrations()[:version]:
            await connection.execute(migration.sql)
        await connection.execute(f"insert into pushq.jobs (id, task) values ('{JOB}', 'echo')")


LAST_WITHOUT_NEEDS = next(migration.version for migration in migrations() if migration.name == "0023_needs") - 1


async def test_a_newer_producer_inserts_into_an_older_schema_what_needs_nothing_and_is_refused_the_rest(
    empty_database_url: str,
) -> None:
    await _prepare(empty_database_url, LAST_WITHOUT_NEEDS)
    plain, needy = NewJob("echo"), NewJob("echo", needs=["gpu"])
    async with _connected(empty_database_url) as connection:
        await Queue().enqueue(plain, connection=connection)
        await Queue().copy([plain], connection=connection)
        await Queue().insert(plain, connection=connection)
        with pytest.raises(asyncpg.InvalidParameterValueError, match=r"job 1 names needs; name only task, .*"):
            await Queue().enqueue(needy, connection=connection)
        for call in (Queue().copy, Queue().insert_many):
            with pytest.raises(asyncpg.UndefinedColumnError, match='column "needs" of relation "jobs" does not exist'):
                await call([needy], connection=connection)
        assert await connection.fetchval("select count(*) from pushq.jobs") == 4
    await migrate(empty_database_url)
    async with _connected(empty_database_url) as connection:
        assert await Queue().insert(needy, connection=connection)


def _is_one_sentence(ended: Result) -> bool:
    return (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)


# A newer schema -------------------------------------------------------------------------------------------------------

FUTURE = "insert into pushq.migrations values (9999, '9999_from_the_future')"
REFUSAL = f"has schema version 9999, and this pushq knows {NEWEST}; upgrade pushq."


def test_a_newer_schema_is_refused_by_what_runs_for_long_and_the_rest_works_as_ever(database_url: str) -> None:
    asyncio.run(_execute(database_url, f"insert into pushq.jobs (id, task) values ('{JOB}', 'echo'); {FUTURE}"))

    for command in COMMANDS:
        ended = invoke(*command, url=database_url)
        if command[0] in CHECKED_FIRST:
            assert REFUSAL in ended.stderr, command
            assert _is_one_sentence(ended), command
        else:
            assert (ended.exit_code, ended.stderr.replace(UNKNOWN, "").replace(UNSERVED, "")) == (0, ""), command


def test_a_newer_schema_that_lacks_what_this_program_uses_is_refused_by_every_command(database_url: str) -> None:
    asyncio.run(_execute(database_url, f"alter schema pushq rename to newer; create schema pushq; {FUTURE_ELSEWHERE}"))

    for command in COMMANDS:
        ended = invoke(*command, url=database_url)
        assert REFUSAL in ended.stderr, command
        assert _is_one_sentence(ended), command


FUTURE_ELSEWHERE = "create table pushq.migrations as table newer.migrations; " + FUTURE


async def test_a_supervisor_that_runs_runs_on_when_the_schema_becomes_newer(
    database_url: str, connection: Connection
) -> None:
    """Also its statements, which the server had planned for the table as it was."""

    async def alter(statement: str) -> None:
        """Again, as a migrator does, where a pool had locked the same tables in another order."""
        try:
            await connection.execute(statement)
        except asyncpg.DeadlockDetectedError:
            await alter(statement)

    with supervising(database_url, "--concurrency", "5"):
        jobs = await insert(connection, "sleep", 5, payload={"seconds": 0.5})
        jobs += await insert(connection, "echo", 20)
        for number in range(10):
            await alter(f"alter table pushq.jobs add column newer_{number} int not null default {number}")
            jobs += await insert(connection, "echo", 20)
        await connection.execute(FUTURE)
        jobs += await insert(connection, "echo", 20)
        rows = await finished(connection, *jobs)

    assert {(row["status"], row["attempt"], row["failures"], row["crashes"]) for row in rows} == {
        ("succeeded", 1, 0, 0)
    }


async def test_whoever_inserts_by_the_columns_of_the_contract_does_so_into_a_newer_schema_too(
    connection: Connection,
) -> None:
    await connection.execute(f"alter table pushq.jobs add column newer text not null default 'unheard of'; {FUTURE}")
    await insert(connection, "echo")
    columns = (
        "id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, "
        "submitted_by"
    )
    values = f"'{JOB}', 'echo', '{{}}', 'default', 1, now(), 3, '1 minute', 'key', 'tenant', 'reference', 'me'"
    await connection.execute(f"insert into pushq.jobs ({columns}) values ({values})")

    assert await connection.fetchval("select count(*) from pushq.jobs where newer = 'unheard of'") == 2


BEFORE_NEEDS = (
    """
    insert into pushq.jobs (
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        traceparent, webhook_url)
    values (
        pushq.uuidv7(), 'echo', '{}', 'default', 0, now(), null, null, null, null, null, null, null)
    returning id
    """,
    "select id from pushq.enqueue_many('[{\"task\": \"echo\"}]', 'keep', null, null)",
    "select id from pushq.enqueue('echo')",
    (
        "select id from pushq.enqueue("
        "'echo', '{}', 'default', 0, now(), 3, '1 min', 'k', null, null, null, 'replace', '1 h', '1 h', null, null)"
    ),
    "select id from pushq.enqueue(task => 'echo', unique_key => 'k', standing => 'replace')",
    "select id from pushq.enqueue_without_needs('echo', unique_key => 'k', standing => 'replace')",
    "select id from pushq.enqueue_as_before('echo', unique_key => 'k', standing => 'replace')",
)


async def test_what_a_producer_of_before_needs_says_is_understood_and_needs_nothing(
    database_url: str, connection: Connection
) -> None:
    jobs = [await connection.fetchval(text) for text in BEFORE_NEEDS]
    with supervising(database_url):
        rows = await finished(connection, *dict.fromkeys(jobs))

    assert len(rows) == 4
    assert {(row["status"], row["needs"], row["lane"], row["apart"]) for row in rows} == {
        ("succeeded", None, None, None)
    }


async def test_a_supervisor_of_before_needs_takes_nothing_from_what_tasks_need(connection: Connection) -> None:
    await connection.execute("insert into pushq.tasks (name, needs) values ('echo', '{\"gpu\": 1}')")
    await connection.execute("insert into pushq.tasks (name) values ('echo'), ('new') on conflict do nothing")

    rows = await connection.fetch("select name, needs from pushq.tasks order by name")
    assert [tuple(row) for row in rows] == [("echo", '{"gpu": 1}'), ("new", None)]


# Many migrators, of whom some die -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have imported already what a migrator needs: to start one takes no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pushq.database.migrate", "anyio._backends._asyncio"])
    return context


@pytest.mark.parametrize("seed", range(2))
async def test_twenty_migrators_of_whom_some_are_killed_make_the_schema_that_one_makes(
    empty_database_url: str,
    database_url: str,
    processes: ForkServerContext,
    seed: int,
) -> None:
    chance = random.Random(seed)
    migrators = [processes.Process(target=anyio.run, args=(migrate, empty_database_url)) for _ in range(20)]
    doomed = chance.sample(migrators, 8)
    async with _connected(empty_database_url) as connection, asyncio.TaskGroup() as group:
        await connection.execute("select pg_advisory_lock($1)", LOCK)
        for migrator in migrators:
            migrator.start()
        await eventually(lambda: _all_wait(connection, len(migrators)))
        doomed[0].kill()
        for migrator in doomed[1:]:
            group.create_task(_kill_within(0.5, migrator, chance))
        await connection.execute("select pg_advisory_unlock($1)", LOCK)
    await eventually(lambda: _all_ended(migrators), within=30)

    assert {migrator.exitcode for migrator in migrators if migrator not in doomed} == {0}
    assert doomed[0].exitcode == -9
    async with _connected(empty_database_url) as connection, _connected(database_url) as other:
        await eventually(lambda: _is_left_alone(connection))
        assert await missing(empty_database_url) == []
        made, wanted = await _schema(connection), await _schema(other)
        assert sorted(made ^ wanted) == []  # shows what differs


async def _kill_within(seconds: float, migrator: ForkServerProcess, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0, seconds))
    migrator.kill()


CALLS = (
    "select * from pushq.enqueue('any', unique_key => 'k', standing => 'replace')",
    "select * from pushq.enqueue('any', unique_key => 'w', key_window => '1 ms', standing => 'replace')",
    """select * from pushq.enqueue_many('[{"task": "any", "unique_key": "k"}, {"task": "any"}]')""",
)


@pytest.mark.parametrize("first", range(16, NEWEST))
async def test_whoever_gives_keys_while_the_schema_is_migrated_is_not_refused(
    empty_database_url: str, first: int
) -> None:
    await _prepare(empty_database_url, first)
    is_over = asyncio.Event()

    async def call(text: str) -> int:
        async with _connected(empty_database_url) as caller:
            calls = 0
            while not is_over.is_set() or calls == 0:
                await caller.fetch(text)
                calls += 1
            await caller.fetch(text)
            return calls

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(call(text)) for text in CALLS * 3]
        await asyncio.sleep(0)
        await migrate(empty_database_url)
        is_over.set()
    assert all(caller.result() for caller in callers)


async def _all_wait(connection: Connection, migrators: int) -> bool:
    """All are connected; none can begin while this connection has the lock."""
    return bool(await connection.fetchval(f"select count(*) = $1 {_MIGRATORS}", migrators))


async def _is_left_alone(connection: Connection) -> bool:
    return not await connection.fetchval(f"select exists (select {_MIGRATORS}) or exists (select {_LOCKS})")


_LOCKS = """
from pg_locks join pg_database on pg_database.oid = pg_locks.database
where datname = current_database() and locktype = 'advisory'
"""
_MIGRATORS = "from pg_stat_activity where datname = current_database() and application_name = 'pushq migrate'"


async def _all_ended(migrators: Sequence[ForkServerProcess]) -> bool:
    return all(migrator.exitcode is not None for migrator in migrators)


async def _schema(connection: Connection) -> frozenset[str]:
    """All that the database holds beside the jobs, a line each."""
    await connection.execute("set search_path to ''")
    rows = await connection.fetch(_ROWS)
    return await catalogue(connection) | {line for (line,) in rows}


_ROWS = """
select format('migration %s %s', version, name) from pushq.migrations
union all
select format('day %s %s', day, retired_at) from pushq.days
"""


async def _execute(url: str, script: str) -> None:
    async with _connected(url) as connection:
        await connection.execute(script)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()
