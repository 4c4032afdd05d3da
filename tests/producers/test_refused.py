"""What cannot insert a job is refused with a sentence that says what to do."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
from sqlalchemy import MetaData, create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from pushq import NewJob, Queue
from pushq.errors import PushqError, UnusableConnection
from tests.producers.drivers import django_connection, of_driver

NOWHERE = "postgresql://localhost:1/nowhere"


class Base(DeclarativeBase):
    metadata = MetaData()


class Cursor:
    """Of a driver that pushq does not know."""

    async def execute(self, statement: str) -> None: ...


def sync_engine() -> Any:
    return create_engine(of_driver(NOWHERE, "psycopg"))


def engine() -> Any:
    return create_async_engine(of_driver(NOWHERE, "asyncpg"))


WRITE_IT = "with any other driver, write the INSERT: see docs/how-to/insert-jobs.md"
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, f"not None; {WRITE_IT}"),
    "a URL": (lambda: NOWHERE, f"not str; {WRITE_IT}"),
    "an unknown driver's": (Cursor, f"not .*test_refused.Cursor; {WRITE_IT}"),
    "sqlite": (lambda: sqlite3.connect(":memory:"), f"not sqlite3.Connection; {WRITE_IT}"),
    "an engine": (sync_engine, "not sqlalchemy.engine.base.Engine; write `with engine.begin\\(\\) as connection`"),
    "an async engine": (engine, "not .*; write `async with engine.begin\\(\\) as connection`"),
    "sessions": (lambda: sessionmaker(sync_engine()), "not .*; write `with make_session.begin\\(\\) as session`"),
    "async sessions": (
        lambda: async_sessionmaker(engine()),
        "not .*; write `async with make_session.begin\\(\\) as session`",
    ),
}
SYNC: dict[str, Callable[[], Any]] = {
    "a session": lambda: Session(sync_engine()),
    "Django's": lambda: django_connection(NOWHERE),
}


@pytest.mark.parametrize("given", REFUSED)
async def test_what_is_no_connection_is_refused(given: str) -> None:
    make, sentence = REFUSED[given]
    with pytest.raises(
        UnusableConnection, match=rf"^Queue.insert takes .* of asyncpg, psycopg 3 or SQLAlchemy 2, {sentence}\.$"
    ):
        await Queue().insert(NewJob("a"), connection=make())
    with pytest.raises(
        UnusableConnection, match=rf"^Queue.insert_sync takes .* of psycopg 3, SQLAlchemy 2 or Django, {sentence}\.$"
    ):
        Queue().insert_sync(NewJob("a"), connection=make())


@pytest.mark.parametrize("given", SYNC)
async def test_what_is_not_asynchronous_is_for_insert_sync(given: str) -> None:
    with pytest.raises(UnusableConnection, match=r"; call Queue.insert_sync, without await.$"):
        await Queue().insert(NewJob("a"), connection=SYNC[given]())


async def test_what_is_asynchronous_is_for_insert(database_url: str) -> None:
    pool = asyncpg.create_pool(database_url)
    async with AsyncSession(engine()) as session, await psycopg.AsyncConnection.connect(database_url) as connection:
        for given in (pool, session, connection):
            with pytest.raises(UnusableConnection, match=r"; await Queue.insert.$"):
                Queue().insert_sync(NewJob("a"), connection=given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("AsyncConnectionPool", "write `async with pool\\.connection\\(\\) as connection`"),
        ("ConnectionPool", "write `with pool\\.connection\\(\\) as connection`"),
    ],
)
async def test_a_pool_of_psycopg_is_refused_with_how_to_get_its_connection(
    monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    """psycopg_pool is a package of its own; its classes are known by their names."""
    module = ModuleType("psycopg_pool")
    pool = type(name, (), {"__module__": "psycopg_pool.pool"})
    setattr(module, name, pool)
    monkeypatch.setitem(sys.modules, "psycopg_pool", module)

    await refuses(pool(), f"^Queue.insert takes .*, not psycopg_pool.pool.{name}; {sentence}.$")
    refuses_sync(pool(), f"^Queue.insert_sync takes .*, not psycopg_pool.pool.{name}; {sentence}.$")


async def test_a_cursor_is_refused_with_its_connection(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection, connection.cursor() as cursor:
        await refuses(cursor, "not psycopg.AsyncCursor; give cursor.connection")


async def test_a_transaction_is_refused_with_its_connection(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await refuses(connection.transaction(), "give the connection that the transaction is of")
    await connection.close()


async def test_asyncpg_s_connections_and_pools_that_are_closed_are_refused(database_url: str) -> None:
    pool = asyncpg.create_pool(database_url, min_size=1, max_size=1)
    await refuses(pool, "This asyncpg pool lends no connection, since pool is not initialized; insert inside")
    async with pool:
        await refuses(pool.acquire(), "write `async with pool.acquire\\(\\) as connection`, or give the pool")
        async with pool.acquire() as lent:
            connection = lent
        await refuses(connection, "This asyncpg connection is closed, or has gone back to its pool; insert before")
        async with pool.acquire() as lent:
            await lent.close()
            await refuses(lent, "This asyncpg connection is closed, or")
    await refuses(pool, "This asyncpg pool lends no connection, since pool is clos(ed|ing); insert inside")
    closed = await asyncpg.connect(database_url)
    await closed.close()
    await refuses(closed, "This asyncpg connection is closed, or has gone back to its pool; insert before that")


async def test_psycopg_s_connections_that_are_closed_are_refused(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        pass
    await refuses(connection, "This psycopg connection is closed; insert before")
    with psycopg.connect(database_url) as sync:
        pass
    refuses_sync(sync, "This psycopg connection is closed; insert before")


async def test_sqlalchemy_s_connections_that_are_not_open_are_refused(database_url: str) -> None:
    engine, sync_engine = create_async_engine(of_driver(database_url, "psycopg")), create_engine("sqlite://")
    opening = engine.connect()
    await refuses(opening, "This SQLAlchemy connection is not open yet; write `async with engine.begin\\(\\)")
    async with opening as connection:
        pass
    await refuses(connection, "This SQLAlchemy connection is (closed; insert before|not open yet)")
    with sync_engine.connect() as sync:
        refuses_sync(
            sync, "is of sqlite\\+pysqlite; make the engine for postgresql\\+asyncpg:// or postgresql\\+psycopg"
        )
    refuses_sync(sync, "This SQLAlchemy connection is closed; insert before")
    await engine.dispose()


async def test_a_session_without_one_engine_is_refused(database_url: str) -> None:
    engine = create_async_engine(of_driver(database_url, "asyncpg"))
    async with AsyncSession(binds={Base: engine}) as session:
        await refuses(session, "has an engine for each table alone; give the connection of one: await session")
    with Session(binds={Base: engine.sync_engine}) as sync:
        refuses_sync(sync, "has an engine for each table alone; give the connection of one: session.connection")


def test_django_s_connections_of_other_databases_are_refused() -> None:
    from django.db import connections
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.utils import ConnectionHandler
    from django.utils.connection import ConnectionProxy

    django_connection(NOWHERE)
    sqlite = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})["default"]
    refuses_sync(sqlite, "is by the driver sqlite3.*; choose a database with the engine django.db.backends.postgresql")
    by_psycopg2: Any = type("By2", (BaseDatabaseWrapper,), {"vendor": "postgresql", "Database": psycopg2})
    refuses_sync(by_psycopg2.__new__(by_psycopg2), "is by the driver psycopg2; choose .*, and install psycopg 3: pip")
    refuses_sync(ConnectionProxy({"default": object()}, "default"), "is by the driver none; choose")
    refuses_sync(connections, "give django.db.connection, or django.db.connections\\['default'\\]")


async def refuses(connection: Any, sentence: str) -> None:
    with pytest.raises(PushqError, match=sentence):
        await Queue().insert(NewJob("a"), connection=connection)


def refuses_sync(connection: Any, sentence: str) -> None:
    with pytest.raises(PushqError, match=sentence):
        Queue().insert_sync(NewJob("a"), connection=connection)
