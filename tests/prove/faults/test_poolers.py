"""Poolers of every kind, as a session meets them: what holds is asked for, not read from how somebody refuses.

PgBouncer plays them all. One that swallows what a session wants to be set from its start does as Supavisor, PgCat and
Odyssey do.
"""

from __future__ import annotations

from typing import Any

import anyio
import asyncpg
import pytest

from pushq.database.migrate import migrate
from pushq.database.session import Session
from pushq.errors import DatabaseTrouble, SettingsError
from tests.support.jobs import Connection, finished, insert
from tests.support.pgbouncer import pooling
from tests.support.supervisors import supervising

SWALLOWING = pytest.mark.parametrize("swallows", [False, True], ids=["refuses", "swallows"])
DEFAULTS = ("enable_seqscan", "search_path", "statement_timeout", "lock_timeout", "jit", "timezone")

pytestmark = pytest.mark.timeout(150)  # the package may have to be fetched


async def settings_of(session: Session) -> dict[str, str]:
    """What its settings are now, of those that it asks for."""
    names = list(session.settings)
    asked = ", ".join(f"current_setting('{name}') as {name}" for name in names)
    (row,) = await session.fetch(f"select {asked}")
    return dict(row)


HELD = {"search_path": "pg_catalog, pg_temp", "statement_timeout": "7500ms", "enable_seqscan": "off", "jit": "off"} | {
    "synchronous_commit": "off", "idle_session_timeout": "0", "default_transaction_isolation": "read committed",
}  # fmt: skip


@SWALLOWING
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_session_has_its_settings_behind_any_pooler(database_url: str, mode: str, swallows: bool) -> None:
    with pooling(database_url, mode, swallows=swallows) as pooled:
        session = Session(pooled, "pushq test", deadline=7.5, settings={"synchronous_commit": "off"})
        for _ in range(3):
            assert HELD.items() <= (await settings_of(session)).items()
        assert session.is_pooled == (mode == "transaction")
        await session.close()


@SWALLOWING
@pytest.mark.parametrize(
    "more",
    [{}, {"server_round_robin": 1}, {"default_pool_size": 1}, {"default_pool_size": 2, "server_round_robin": 1}],
    ids=str,
)
async def test_what_a_session_sets_behind_a_transaction_pooler_nobody_else_finds(
    database_url: str, swallows: bool, more: dict[str, Any]
) -> None:
    with pooling(database_url, swallows=swallows, **more) as pooled:
        others = [await asyncpg.connect(pooled, statement_cache_size=0) for _ in range(3)]
        before = [await _found(other) for other in others]
        session = Session(pooled, "pushq test")
        await session.fetch("select 1")
        assert session.is_pooled
        assert [await _found(other) for other in others] == before
        await session.close()
        for other in others:
            await other.close()


async def _found(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    async with connection.transaction():
        found = [await connection.fetchval("select current_setting($1)", name) for name in DEFAULTS]
        return [*found, await connection.fetchval("select count(*) from pg_prepared_statements where name <> ''")]


async def test_a_transaction_pooler_is_found_out_while_others_use_it(database_url: str) -> None:
    with pooling(database_url, swallows=True) as pooled:
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(_busy, pooled)
            for _ in range(5):
                session = Session(pooled, "pushq test")
                await session.fetch("select 1")
                assert session.is_pooled
                await session.close()
            group.cancel_scope.cancel()


async def _busy(url: str) -> None:
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        while True:
            async with connection.transaction():
                await connection.execute("select pg_sleep(random() * 0.003)")
    finally:
        connection.terminate()


@SWALLOWING
async def test_behind_a_session_pooler_a_statement_costs_what_it_costs_without(
    database_url: str, connection: Connection, swallows: bool
) -> None:
    with pooling(database_url, "session", swallows=swallows) as pooled:
        session = Session(pooled, "pushq test")
        for _ in range(3):
            await session.fetch("select 4711")
        (row,) = await session.fetch("select count(*) as n from pg_prepared_statements where statement = 'select 4711'")
        assert row["n"] == 1
        last = (
            "select query from pg_stat_activity where application_name = 'pushq test' and datname = current_database()"
        )
        assert "pg_prepared_statements" in await connection.fetchval(last)  # and nothing after it
        await session.close()


async def test_a_session_pooler_without_a_process_to_spare_is_taken_for_the_worse_and_works(database_url: str) -> None:
    with pooling(database_url, "session", default_pool_size=1, server_idle_timeout=1) as pooled:
        session = Session(pooled, "pushq test", deadline=7.5)
        assert (await settings_of(session))["statement_timeout"] == "7500ms"
        await session.close()


@SWALLOWING
async def test_the_reason_of_the_server_behind_a_pooler_is_told_not_the_setting_that_the_pooler_refused(
    database_url: str, swallows: bool
) -> None:
    with pooling(database_url.replace("//pushq@", "//nobody_here@"), swallows=swallows) as pooled:
        session = Session(pooled, "pushq test", deadline=7.5)
        with pytest.raises(DatabaseTrouble, match='"nobody_here" does not exist'):
            await session.fetch("select 1")
        await session.close()


@SWALLOWING
async def test_through_a_session_pooler_one_may_migrate_and_through_a_transaction_pooler_not(
    empty_database_url: str, swallows: bool
) -> None:
    with (
        pooling(empty_database_url, swallows=swallows) as pooled,
        pytest.raises(SettingsError, match="PUSHQ_LISTEN_DATABASE_URL"),
    ):
        await migrate(pooled)
    with pooling(empty_database_url, "session", swallows=swallows) as pooled:
        assert await migrate(pooled)
        assert await migrate(pooled) == []


async def test_a_server_that_makes_settings_of_its_own_at_the_start_does_not_keep_them(database_url: str) -> None:
    """As a login trigger may: what a session asked for is made once more, and then holds."""
    session = Session(database_url, "pushq test")
    async with session._turn, session._in_use(5) as connection:
        version = connection.get_server_version()
    await session.close()
    if version >= (17,):
        ours = await asyncpg.connect(database_url)
        await ours.execute(
            "create function public.at_login() returns event_trigger language plpgsql as "
            "$$ begin set enable_seqscan = on; set search_path = public; end $$; "
            "create event trigger at_login on login execute function public.at_login()"
        )
        await ours.close()
        assert (await settings_of(session))["search_path"] == "pg_catalog, pg_temp"
        assert not session.is_pooled
        await session.close()


async def test_behind_a_pooler_that_swallows_settings_jobs_run_and_pools_live(
    database_url: str, connection: Connection
) -> None:
    with pooling(database_url, swallows=True) as pooled, supervising(pooled, PROCESSES="2") as supervisor:
        rows = await finished(connection, *await insert(connection, "echo", 200))

        assert {row["status"] for row in rows} == {"succeeded"}
        assert "died" not in supervisor.said
        assert supervisor.stop() == 0
