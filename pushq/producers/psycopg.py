"""psycopg 3: a connection, in its transaction."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from pushq.errors import UnusableConnection
from pushq.producers.percents import in_percents
from pushq.producers.rows import Part


async def _on_async_connection(connection: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    _refuse_closed(connection)
    psycopg = sys.modules["psycopg"]
    # A cursor of a kind that we know: connections may make cursors that return other rows, or take other parameters.
    async with psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
        await cursor.execute(in_percents(text), values)
        return list(await cursor.fetchall())


def _on_connection(connection: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    _refuse_closed(connection)
    psycopg = sys.modules["psycopg"]
    with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
        cursor.execute(in_percents(text), values)
        return list(cursor.fetchall())


async def _async_copy(connection: Any, parts: Iterable[Part]) -> int:
    _refuse_closed(connection)
    copied = 0
    async with _transaction(connection), sys.modules["psycopg"].AsyncCursor(connection) as cursor:
        for columns, lines in parts:
            async with cursor.copy(_copy_statement(columns)) as copy:
                for piece in lines:
                    await copy.write(piece)
            copied += cursor.rowcount
    return copied


def _copy(connection: Any, parts: Iterable[Part]) -> int:
    _refuse_closed(connection)
    copied = 0
    with _transaction(connection), sys.modules["psycopg"].Cursor(connection) as cursor:
        for columns, lines in parts:
            with cursor.copy(_copy_statement(columns)) as copy:
                for piece in lines:
                    copy.write(piece)
            copied += cursor.rowcount
    return copied


def _transaction(connection: Any) -> Any:
    """For several COPYs. Without autocommit, the connection begins a transaction by itself, which its owner ends."""
    return connection.transaction() if connection.autocommit else nullcontext()


def _copy_statement(columns: Sequence[str]) -> str:
    return f"copy pushq.jobs ({', '.join(columns)}) from stdin"


def _refuse_closed(connection: Any) -> None:
    if connection.closed:
        raise UnusableConnection("This psycopg connection is closed; insert before it is closed, or open another.")


ASYNC = {"psycopg.AsyncConnection": _on_async_connection}
SYNC = {"psycopg.Connection": _on_connection}
COPY = {"psycopg.AsyncConnection": _async_copy}
COPY_SYNC = {"psycopg.Connection": _copy}

REFUSED = {
    "psycopg.AsyncCursor psycopg.Cursor psycopg.AsyncServerCursor psycopg.ServerCursor": "give cursor.connection",
    "psycopg_pool.AsyncConnectionPool": "write `async with pool.connection() as connection`",
    "psycopg_pool.ConnectionPool": "write `with pool.connection() as connection`",
    "psycopg2.extensions.connection psycopg2.extensions.cursor": (
        "use psycopg 3, or write the INSERT: see docs/how-to/insert-jobs.md"
    ),
}
