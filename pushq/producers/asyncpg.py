"""asyncpg: a connection, in its transaction; or a pool, in a transaction of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pushq.errors import UnusableConnection


async def fetch(connection: Any, text: str, columns: Sequence[list[Any]]) -> list[UUID]:
    return [row["id"] for row in await connection.fetch(text, *columns)]


async def _on_connection(connection: Any, text: str, columns: Sequence[list[Any]]) -> list[UUID]:
    if _is_closed(connection):
        raise UnusableConnection(
            "This asyncpg connection is closed, or has gone back to its pool; insert before that, or open another."
        )
    return await fetch(connection, text, columns)


def _is_closed(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except sys.modules["asyncpg"].InterfaceError:  # of a connection that was lent
        return True


async def _on_pool(pool: Any, text: str, columns: Sequence[list[Any]]) -> list[UUID]:
    try:
        connection = await pool.acquire()
    except sys.modules["asyncpg"].InterfaceError as error:
        raise UnusableConnection(
            f"This asyncpg pool lends no connection, since {error}; insert inside of `async with create_pool(…)`."
        ) from None
    try:
        return await fetch(connection, text, columns)
    finally:
        await pool.release(connection)


ASYNC = {
    "asyncpg.connection.Connection asyncpg.pool.PoolConnectionProxy": _on_connection,
    "asyncpg.pool.Pool": _on_pool,
}

REFUSED = {
    "asyncpg.pool.PoolAcquireContext": "write `async with pool.acquire() as connection`, or give the pool",
    "asyncpg.transaction.Transaction": "give the connection that the transaction is of",
}
