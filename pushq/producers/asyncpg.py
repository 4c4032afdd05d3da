"""asyncpg: a connection, in its transaction; or a pool, in a transaction of its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pushq.errors import UnusableConnection
from pushq.producers.rows import Part


async def fetch(connection: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in await connection.fetch(text, *values)]


async def _on_connection(connection: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    _refuse_closed(connection)
    return await fetch(connection, text, values)


async def _copy(connection: Any, parts: Iterable[Part]) -> int:
    _refuse_closed(connection)
    async with connection.transaction():
        return sum([await _copy_part(connection, *part) for part in parts])


async def _copy_part(connection: Any, columns: Sequence[str], lines: Iterable[bytes]) -> int:
    done = await connection.copy_to_table(
        "jobs", schema_name="pushq", columns=columns, format="text", source=_asynchronous(lines)
    )
    return int(done.removeprefix("COPY "))


async def _asynchronous(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in lines:
        yield piece


def _refuse_closed(connection: Any) -> None:
    if _is_closed(connection):
        raise UnusableConnection(
            "This asyncpg connection is closed, or has gone back to its pool; insert before that, or open another."
        )


def _is_closed(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except sys.modules["asyncpg"].InterfaceError:  # of a connection that was lent
        return True


async def _on_pool(pool: Any, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    async with _lent(pool) as connection:
        return await fetch(connection, text, values)


async def _copy_on_pool(pool: Any, parts: Iterable[Part]) -> int:
    async with _lent(pool) as connection:
        return await _copy(connection, parts)


@asynccontextmanager
async def _lent(pool: Any) -> AsyncIterator[Any]:
    try:
        connection = await pool.acquire()
    except sys.modules["asyncpg"].InterfaceError as error:
        raise UnusableConnection(
            f"This asyncpg pool lends no connection, since {error}; insert inside of `async with create_pool(…)`."
        ) from None
    try:
        yield connection
    finally:
        await pool.release(connection)


ASYNC = {
    "asyncpg.connection.Connection asyncpg.pool.PoolConnectionProxy": _on_connection,
    "asyncpg.pool.Pool": _on_pool,
}
COPY = {
    "asyncpg.connection.Connection asyncpg.pool.PoolConnectionProxy": _copy,
    "asyncpg.pool.Pool": _copy_on_pool,
}

REFUSED = {
    "asyncpg.pool.PoolAcquireContext": "write `async with pool.acquire() as connection`, or give the pool",
    "asyncpg.transaction.Transaction": "give the connection that the transaction is of",
}
