"""SQLAlchemy 2: a session or a connection, over asyncpg or psycopg 3, in its transaction."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pushq.errors import UnusableConnection
from pushq.producers.percents import in_percents

_DRIVERS = ("asyncpg", "psycopg")


async def _on_async_session(session: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    try:
        connection = await session.connection()
    except sys.modules["sqlalchemy.exc"].UnboundExecutionError:
        raise _unbound("await session.connection(…)") from None
    return await _on_async_connection(connection, text, values)


async def _on_async_connection(connection: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    if connection.sync_connection is None:
        raise UnusableConnection(
            "This SQLAlchemy connection is not open yet; write `async with engine.begin() as connection`."
        )
    statement = _in_its_style(connection, text)
    result = await connection.exec_driver_sql(statement, tuple(values), execution_options=_AT_ONCE)
    return [tuple(row) for row in result]


def _on_session(session: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    try:
        connection = session.connection()
    except sys.modules["sqlalchemy.exc"].UnboundExecutionError:
        raise _unbound("session.connection(…)") from None
    return _on_connection(connection, text, values)


def _on_connection(connection: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    statement = _in_its_style(connection, text)
    result = connection.exec_driver_sql(statement, tuple(values), execution_options=_AT_ONCE)
    return [tuple(row) for row in result]


_AT_ONCE = {"stream_results": False}
"""Without a cursor of the server's, which an INSERT cannot have, and a connection may be set to use."""


def _in_its_style(connection: Any, text: str) -> str:
    """The statement with the parameters of the driver underneath. Raises UnusableConnection."""
    if connection.closed:
        raise UnusableConnection("This SQLAlchemy connection is closed; insert before it is closed, or open another.")
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver not in _DRIVERS:
        raise UnusableConnection(
            f"This SQLAlchemy connection is of {dialect.name}+{dialect.driver}; make the engine for "
            "postgresql+asyncpg:// or postgresql+psycopg://, or write the INSERT: see docs/how-to/insert-jobs.md."
        )
    return text if dialect.driver == "asyncpg" else in_percents(text)


def _unbound(connection: str) -> UnusableConnection:
    return UnusableConnection(
        f"This SQLAlchemy session has an engine for each table alone; give the connection of one: {connection}."
    )


ASYNC = {
    "sqlalchemy.ext.asyncio.AsyncSession sqlalchemy.ext.asyncio.async_scoped_session": _on_async_session,
    "sqlalchemy.ext.asyncio.AsyncConnection": _on_async_connection,
}
SYNC = {
    "sqlalchemy.orm.Session sqlalchemy.orm.scoped_session": _on_session,
    "sqlalchemy.engine.Connection": _on_connection,
}
REFUSED = {
    "sqlalchemy.ext.asyncio.AsyncEngine": "write `async with engine.begin() as connection`",
    "sqlalchemy.engine.Engine": "write `with engine.begin() as connection`",
    "sqlalchemy.ext.asyncio.async_sessionmaker": "write `async with make_session.begin() as session`",
    "sqlalchemy.orm.sessionmaker": "write `with make_session.begin() as session`",
    "sqlalchemy.ext.asyncio.AsyncTransaction sqlalchemy.engine.Transaction": "give transaction.connection",
    "sqlalchemy.orm.SessionTransaction sqlalchemy.ext.asyncio.AsyncSessionTransaction": "give the session",
}
