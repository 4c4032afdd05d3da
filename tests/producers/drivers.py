"""The callers' connections: each of the kinds that can insert a job, in an open transaction of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.contrib import project


@dataclass
class Caller:
    """An app in a transaction, which it ends itself."""

    connection: Any
    commit: Callable[[], Awaitable[None]]
    rollback: Callable[[], Awaitable[None]]


@dataclass
class SyncCaller:
    """An app without asyncio."""

    connection: Any
    commit: Callable[[], None]
    rollback: Callable[[], None]


@asynccontextmanager
async def by_asyncpg(url: str) -> AsyncIterator[Caller]:
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield Caller(connection, transaction.commit, transaction.rollback)
    await connection.close()


@asynccontextmanager
async def by_asyncpg_s_pool(url: str) -> AsyncIterator[Caller]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield Caller(connection, transaction.commit, transaction.rollback)


@asynccontextmanager
async def by_psycopg(url: str) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield Caller(connection, connection.commit, connection.rollback)


@asynccontextmanager
async def by_psycopg_with_habits(url: str) -> AsyncIterator[Caller]:
    """Its cursors return dicts, and take $1."""
    async with await psycopg.AsyncConnection.connect(
        url, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.AsyncRawCursor
    ) as connection:
        yield Caller(connection, connection.commit, connection.rollback)


def by_async_session(driver: str) -> Callable[[str], AbstractAsyncContextManager[Caller]]:
    @asynccontextmanager
    async def begin(url: str) -> AsyncIterator[Caller]:
        engine = create_async_engine(of_driver(url, driver))
        async with AsyncSession(engine) as session:
            yield Caller(session, session.commit, session.rollback)
        await engine.dispose()

    return begin


def by_async_connection(driver: str) -> Callable[[str], AbstractAsyncContextManager[Caller]]:
    @asynccontextmanager
    async def begin(url: str) -> AsyncIterator[Caller]:
        engine = create_async_engine(of_driver(url, driver))
        async with engine.connect() as connection:
            yield Caller(connection, connection.commit, connection.rollback)
        await engine.dispose()

    return begin


@asynccontextmanager
async def by_scoped_async_session(url: str) -> AsyncIterator[Caller]:
    engine = create_async_engine(of_driver(url, "asyncpg"), execution_options={"stream_results": True})
    session = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 0)
    yield Caller(session, session.commit, session.rollback)
    await session.remove()
    await engine.dispose()


@contextmanager
def by_sync_psycopg(url: str) -> Iterator[SyncCaller]:
    with psycopg.connect(url) as connection:
        yield SyncCaller(connection, connection.commit, connection.rollback)


@contextmanager
def by_session(url: str) -> Iterator[SyncCaller]:
    engine = create_engine(of_driver(url, "psycopg"))
    with Session(engine) as session:
        yield SyncCaller(session, session.commit, session.rollback)
    engine.dispose()


@contextmanager
def by_scoped_session(url: str) -> Iterator[SyncCaller]:
    engine = create_engine(of_driver(url, "psycopg"), execution_options={"stream_results": True})
    session = scoped_session(sessionmaker(engine))
    yield SyncCaller(session, session.commit, session.rollback)
    session.remove()
    engine.dispose()


@contextmanager
def by_connection(url: str) -> Iterator[SyncCaller]:
    engine = create_engine(of_driver(url, "psycopg"))
    with engine.connect() as connection:
        yield SyncCaller(connection, connection.commit, connection.rollback)
    engine.dispose()


@contextmanager
def by_django(url: str) -> Iterator[SyncCaller]:
    connection = django_connection(url)
    connection.set_autocommit(False)
    yield SyncCaller(connection, connection.commit, connection.rollback)
    connection.close()


def django_connection(url: str) -> Any:
    project.set_up()
    from django.db.utils import ConnectionHandler

    return ConnectionHandler({"default": project.database(url)})["default"]


def of_driver(url: str, driver: str) -> str:
    """A URL as SQLAlchemy wants it."""
    return f"postgresql+{driver}://{url.partition('://')[2]}"


CALLERS = {
    "asyncpg": by_asyncpg,
    "asyncpg's pool": by_asyncpg_s_pool,
    "psycopg": by_psycopg,
    "psycopg with habits": by_psycopg_with_habits,
    "AsyncSession over asyncpg": by_async_session("asyncpg"),
    "AsyncSession over psycopg": by_async_session("psycopg"),
    "AsyncConnection over asyncpg": by_async_connection("asyncpg"),
    "AsyncConnection over psycopg": by_async_connection("psycopg"),
    "async_scoped_session": by_scoped_async_session,
}

SYNC_CALLERS: dict[str, Callable[[str], AbstractContextManager[SyncCaller]]] = {
    "psycopg": by_sync_psycopg,
    "Session": by_session,
    "scoped_session": by_scoped_session,
    "Connection": by_connection,
    "Django": by_django,
}
