"""psycopg 3: a connection, in its transaction."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pushq.errors import UnusableConnection
from pushq.producers.percents import in_percents


async def _on_async_connection(connection: Any, text: str, columns: Sequence[list[Any]]) -> list[UUID]:
    _refuse_closed(connection)
    psycopg = sys.modules["psycopg"]
    # A cursor of a kind that we know: connections may make cursors that return other rows, or take other parameters.
    async with psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
        await cursor.execute(in_percents(text), columns)
        return [job_id for (job_id,) in await cursor.fetchall()]


def _on_connection(connection: Any, text: str, columns: Sequence[list[Any]]) -> list[UUID]:
    _refuse_closed(connection)
    psycopg = sys.modules["psycopg"]
    with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
        cursor.execute(in_percents(text), columns)
        return [job_id for (job_id,) in cursor.fetchall()]


def _refuse_closed(connection: Any) -> None:
    if connection.closed:
        raise UnusableConnection("This psycopg connection is closed; insert before it is closed, or open another.")


ASYNC = {"psycopg.AsyncConnection": _on_async_connection}
SYNC = {"psycopg.Connection": _on_connection}

REFUSED = {
    "psycopg.AsyncCursor psycopg.Cursor psycopg.AsyncServerCursor psycopg.ServerCursor": "give cursor.connection",
    "psycopg_pool.AsyncConnectionPool": "write `async with pool.connection() as connection`",
    "psycopg_pool.ConnectionPool": "write `with pool.connection() as connection`",
    "psycopg2.extensions.connection psycopg2.extensions.cursor": (
        "use psycopg 3, or write the INSERT: see docs/how-to/insert-jobs.md"
    ),
}
