"""Connections of those who work with the database as users of pushq do, and what they meet when it is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


async def connect(url: str, *, command_timeout: float = 20) -> Connection:
    """One that keeps no statements."""
    return await asyncpg.connect(url, timeout=5, command_timeout=command_timeout, statement_cache_size=0)


@asynccontextmanager
async def connected(url: str, *, command_timeout: float = 20) -> AsyncIterator[Connection]:
    connection = await connect(url, command_timeout=command_timeout)
    try:
        yield connection
    finally:
        connection.terminate()
