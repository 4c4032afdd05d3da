"""Bare asyncpg connections, for limits without any of pushq's code around the driver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio
import asyncpg

from pushq.database.session import Session
from pushq.database.url import describe, destination
from pushq.errors import UsageError

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SECONDS_TO_CONNECT = 15.0


@asynccontextmanager
async def connected(url: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Connection]:
    """A plain client's connection, with the server's own settings, changed by `settings`."""
    connection = await asyncpg.connect(
        destination(url),
        timeout=SECONDS_TO_CONNECT,
        server_settings={"application_name": "pushq bench", **(settings or {})},
        max_cached_statement_lifetime=0,
    )
    try:
        yield connection
    finally:
        with anyio.move_on_after(2, shield=True):
            await connection.close()
        connection.terminate()


def session_settings(*, is_durable: bool) -> dict[str, str]:
    """The settings of a pool's session for outcomes (durable), or for claims."""
    settings = dict(Session(None, "pushq bench").settings)
    return settings if is_durable else settings | {"synchronous_commit": "off"}


@asynccontextmanager
async def refusals_explained(url: str) -> AsyncIterator[None]:
    """Turns a missing right into a sentence with the remedy."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise UsageError(
            f"{describe(url)} refused us: {error}. The benchmark makes databases of its own and drops them at its end: "
            "give the role CREATEDB, or run with --embedded."
        ) from None
