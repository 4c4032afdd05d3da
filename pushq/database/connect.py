"""Opens connections, and finds out by asking what stands between us and the server.

A session wants settings of its own from its start. A pooler may refuse them, or take and forget them; and it may let
one server process answer whatever a connection asks, or any of several, a transaction each. No two poolers say so in
the same words. So every connection is asked, once, whether its settings hold. Where they do not, two connections are
watched for a while. If each keeps a server process to itself, the settings are made there, and all else is as without
a pooler. If not, the session has to make them in each transaction: what it set for longer would be found by whoever is
given the process next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import asyncpg

from pushq.errors import SettingsError

_LOOKS = 8
"""How often the two are compared: others, who use the pooler as well, may have taken the process in between."""
_WATCH = 2.0
"""Seconds, at most. A pooler without a process for the second connection lets it wait."""


async def connect(
    destination: str, settings: Mapping[str, str], seconds: float, *, is_pooled: bool
) -> tuple[asyncpg.Connection[asyncpg.Record], bool]:
    """A connection, and whether a transaction pooler stands in between; then nothing is set and nothing prepared.

    is_pooled: that is known from an earlier connection. Raises SettingsError, and what asyncpg raises.
    """
    try:
        if is_pooled:
            return await asyncpg.connect(destination, timeout=seconds, statement_cache_size=0), True
        try:
            return await _with_settings(destination, settings, seconds), False
        except asyncpg.InsufficientPrivilegeError:
            raise
        except _DO_NOT_HOLD as error:
            return await _in_spite_of(error, destination, settings, seconds)
    except (asyncpg.ClientConfigurationError, ValueError) as error:  # a ValueError: no host can have that name
        raise SettingsError(f"The database URL cannot be used: {str(error).splitlines()[0].rstrip('.')}.") from error


_DO_NOT_HOLD = (
    asyncpg.ProtocolViolationError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.DataError,
)
"""How a pooler may put it that it does not take a setting, and how we are told that it did not keep one. A server puts
it like that of one in the URL, and says so again when it is asked for nothing else."""


async def _in_spite_of(
    refusal: asyncpg.PostgresError, destination: str, settings: Mapping[str, str], seconds: float
) -> tuple[asyncpg.Connection[asyncpg.Record], bool]:
    if await _keeps_a_process(destination, seconds):
        return await _with_settings_made(destination, settings, seconds), False
    try:
        return await asyncpg.connect(destination, timeout=seconds / 3, statement_cache_size=0), True
    except TimeoutError:
        raise refusal from None  # a pooler that cannot reach its server tells why once, and then is silent for a while


def make_settings(settings: Mapping[str, str], version: int, *, for_transaction: bool) -> str:
    """A statement that makes them. By a function, to which a list is the text that it is at a connection's start."""
    every = {**settings, "transaction_timeout": "0"} if version >= _TRANSACTION_TIMEOUT else settings
    calls = ", ".join(
        f"pg_catalog.set_config({name}, {value}, {str(for_transaction).lower()})" for name, value in _quoted(every)
    )
    return f"select {calls}"


_TRANSACTION_TIMEOUT = 17
"""The server that knows of it first. One that does not would refuse a connection that asks for it from its start."""


async def _with_settings(
    destination: str, settings: Mapping[str, str], seconds: float
) -> asyncpg.Connection[asyncpg.Record]:
    """A connection that has the settings from its start, and keeps them. Raises one of _DO_NOT_HOLD if it does not."""
    connection = await asyncpg.connect(
        destination, timeout=seconds, server_settings=dict(settings), max_cached_statement_lifetime=0
    )
    try:
        await connection.execute(_ask(settings, connection.get_server_version().major))
    except BaseException:
        connection.terminate()
        raise
    return connection


def _ask(settings: Mapping[str, str], version: int) -> str:
    """A statement that fails unless each setting is what it would be if it were made now, which tells spellings apart.

    A simple query, since prepared ones may find that somebody else answers. asyncpg shows no rows of it; hence the
    division. What only a newer server knows is set in the same round trip.
    """
    asked = ", ".join(f"({name}, {value})" for name, value in _quoted(settings))
    holds = (
        "pg_catalog.bool_and(pg_catalog.current_setting(name) operator(pg_catalog.=) "
        "pg_catalog.set_config(name, value, true))"
    )
    newer = "; set transaction_timeout = 0" if version >= _TRANSACTION_TIMEOUT else ""
    of_all = f"from (values {asked}) as asked (name, value)"
    return f"select 1 operator(pg_catalog./) case when {holds} then 1 else 0 end {of_all}{newer}"


def _quoted(settings: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"'{name}'", "'" + value.replace("'", "''") + "'") for name, value in settings.items()]


async def _with_settings_made(
    destination: str, settings: Mapping[str, str], seconds: float
) -> asyncpg.Connection[asyncpg.Record]:
    connection = await asyncpg.connect(destination, timeout=seconds, max_cached_statement_lifetime=0)
    try:
        await connection.execute(make_settings(settings, connection.get_server_version().major, for_transaction=False))
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _keeps_a_process(destination: str, seconds: float) -> bool:
    """Whether one server process answers a connection for as long as it lasts, and nobody else meanwhile.

    A transaction pooler gives a connection the process that has been free for the shortest time, or the longest, or
    any. So another connection is given ours in between, or we are given another.
    """
    try:
        with anyio.fail_after(min(_WATCH, seconds / 2)):
            async with _bare(destination, seconds) as ours, _bare(destination, seconds) as another:
                process = await _process(ours)
                for _ in range(_LOOKS):
                    if await _process(another) == process:
                        return False
                    if {await _process(ours), await _process(ours)} != {process}:
                        return False
                return True
    except (
        OSError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ):  # not to be told: the careful way always works
        return False


async def _process(connection: asyncpg.Connection[asyncpg.Record]) -> object:
    async with connection.transaction():
        return await connection.fetchval("select pg_catalog.pg_backend_pid()")


@asynccontextmanager
async def _bare(destination: str, seconds: float) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(destination, timeout=seconds, statement_cache_size=0)
    try:
        yield connection
    finally:
        connection.terminate()
