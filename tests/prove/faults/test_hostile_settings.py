"""Whatever an administrator has set on pushq's role, jobs run and the listener stays.

Its sessions say what they need when they connect, and that outranks the role. They do not overrule a role or a
database that is made read-only: so operators and hosting providers stop writers, for example while a disk is full.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.roles import granted, url_as
from tests.support.supervisors import environment, pushq, supervising
from tests.support.waiting import eventually, wait_until

TASKS = "tests.support.handlers:tasks"
HOSTILE: dict[str, dict[str, str]] = {
    "timeouts": {
        "statement_timeout": "50ms",
        "lock_timeout": "50ms",
        "idle_in_transaction_session_timeout": "50ms",
        "idle_session_timeout": "50ms",
    },
    "transactions": {"transaction_timeout": "50ms"},
    "serializable": {
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        "search_path": "",
        "row_security": "off",
        "client_encoding": "LATIN1",
    },
    "repeatable read": {
        "default_transaction_isolation": "repeatable read",
        "TimeZone": "Asia/Kathmandu",
        "DateStyle": "German, DMY",
        "IntervalStyle": "sql_standard",
        "bytea_output": "escape",
        "standard_conforming_strings": "off",
        "array_nulls": "off",
        "transform_null_equals": "on",
        "extra_float_digits": "-15",
    },
}
OURS = "from pg_stat_activity where datname = current_database() and application_name like 'pushq %'"


@asynccontextmanager
async def a_role_with(connection: Connection, url: str, settings: Mapping[str, str]) -> AsyncIterator[str]:
    """The URL for a worker's login with such settings. Roles are the whole server's: these get names of their own."""
    async with granted(connection) as roles:
        login = f"hostile_{roles.worker}"
        await connection.execute(f"create role {login} login password 'secret' in role {roles.worker}")
        for name, value in settings.items():
            await connection.execute(f"alter role {login} set {name} = '{value}'")
        yield url_as(url, login)
        await connection.execute(f"drop role {login}")


@pytest.mark.parametrize("name", HOSTILE)
async def test_whatever_is_set_on_its_role_jobs_run_and_the_listener_stays(
    database_url: str, connection: Connection, name: str
) -> None:
    settings = {key: value for key, value in HOSTILE[name].items() if await _knows(connection, key)}
    newest = await _forget_the_newest_day(connection)
    async with a_role_with(connection, database_url, settings) as url:
        with supervising(url, POLL_INTERVAL="0") as supervisor:
            listener = await connection.fetchval(f"select pid {OURS} and application_name like '%listens'")
            napping = await insert(connection, "sleep", 3, payload={"seconds": 0.2})
            await has_count(connection, 3, "status = 'running'")
            async with connection.transaction():
                # Sweeps and outcomes have to wait for longer than they are told to.
                await connection.execute("lock table pushq.jobs in access exclusive mode; select pg_sleep(0.6)")
            word = "naïve \N{SNOWMAN} \\ '"
            (echo,) = await insert(connection, "echo", payload={"word": word})
            (failing,) = await insert(connection, "fail")
            (later,) = await insert(connection, "echo", run_at=await connection.fetchval("select now() + '0.5 s'"))
            rows = await finished(connection, *napping, echo, failing, later)

            assert [row["status"] for row in rows] == [*["succeeded"] * 4, "failed", "succeeded"]
            assert rows[3]["result"] == json.dumps({"word": word}, ensure_ascii=False)
            assert {row["attempt"] for row in rows[:3]} == {1}
            await eventually(lambda: _has_made(connection, newest))
            assert await connection.fetchval(f"select count(*) {OURS} and state like 'idle in transaction%'") == 0
            assert await connection.fetchval(f"select count(*) {OURS} and pid = $1", listener) == 1
            assert "database lost" not in supervisor.said
            assert "bell down" not in supervisor.said
            assert supervisor.stop() == 0


async def _knows(connection: Connection, setting: str) -> bool:
    return bool(await connection.fetchval("select count(*) from pg_settings where name ilike $1", setting))


async def _forget_the_newest_day(connection: Connection) -> str:
    """So that a sweep under these settings has to make it, which writes and reads dates as text."""
    newest = str(
        await connection.fetchval(
            "delete from pushq.days where day = (select max(day) from pushq.days) returning day::text"
        )
    )
    await connection.execute(f"drop table pushq.jobs_{newest.replace('-', '_')}")
    return newest


async def _has_made(connection: Connection, day: str) -> bool:
    bound = await connection.fetchval(
        "select pg_get_expr(relpartbound, oid) from pg_class where oid = to_regclass($1)",
        f"pushq.jobs_{day.replace('-', '_')}",
    )
    return bound is not None and bound.startswith(f"FOR VALUES FROM ('{day}')")


@pytest.mark.parametrize(
    ("encoding", "word"), [("LATIN1", "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve"), ("SJIS", "\N{HIRAGANA LETTER A}")]
)
async def test_a_producer_may_use_another_encoding(
    database_url: str, connection: Connection, server_bin_directory: Path, encoding: str, word: str
) -> None:
    psql = [str(server_bin_directory / "psql"), database_url, "-qAtv", "ON_ERROR_STOP=1"]
    columns = f"('echo', '{word}', jsonb_build_object('{word}', '{word}'))"
    said = f"insert into pushq.jobs (task, queue, payload) values {columns} returning id"
    inserted = subprocess.run(
        psql,
        input=said.encode(encoding),
        env=environment(None) | {"PGCLIENTENCODING": encoding},
        capture_output=True,
        check=True,
    )
    with supervising(database_url, "--queue", word):
        (row,) = await finished(connection, UUID(inserted.stdout.decode().strip()))

    assert (row["status"], row["queue"]) == ("succeeded", word)
    assert json.loads(row["result"]) == {word: word}


async def test_a_role_that_may_only_read_is_refused_in_a_sentence(database_url: str, connection: Connection) -> None:
    async with a_role_with(connection, database_url, {"default_transaction_read_only": "on"}) as url:
        ended = pushq("supervise", TASKS, "--http-port", "0", url=url)

    assert ended.returncode == 1
    assert "only read-only transactions" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_database_that_is_made_read_only_for_a_while_is_waited_out(
    database_url: str, connection: Connection
) -> None:
    database = await connection.fetchval("select current_database()")
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        napping = await insert(connection, "sleep", 3, payload={"seconds": 0.5})
        await has_count(connection, 3, "status = 'running'")
        await connection.execute(f"alter database {database} set default_transaction_read_only = on")
        await connection.execute(f"select pg_terminate_backend(pid) {OURS}")
        waiting = await insert(connection, "echo", 5)  # our own session was there before
        wait_until(lambda: "only read-only transactions" in supervisor.said)
        wait_until(lambda: supervisor.get("/readyz")[0] == 503)
        await connection.execute(f"alter database {database} reset default_transaction_read_only")
        rows = await finished(connection, *napping, *waiting)

        assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
        assert supervisor.pools == pools
