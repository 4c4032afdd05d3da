"""Opens connections, and finds out by asking whether a pooler stands between this process and the server.

A session needs its settings from the start. A pooler may refuse settings, or take and forget settings. And a pooler may
let one server process answer all statements of a connection, or a different process for each transaction. No two
poolers say so in the same words.

So every new connection is asked, once, whether its settings hold. If not, two connections are watched for a while. If
each connection keeps a server process, the settings are made by a statement, and the rest is as without a pooler.
Otherwise the session makes the settings in each transaction: a setting that outlived the transaction would leak to the
next client of the server process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import asyncpg

from pushq.errors import SettingsError

_LOOKS = 8
"""How often two connections are compared. Other clients of the pooler may take the server process in between."""
_WATCH = 2.0
"""Seconds at most to compare two connections. A pooler with only one server process makes the second wait."""


async def connect(
    destination: str,
    settings: Mapping[str, str],
    seconds: float,
    *,
    is_pooled: bool,
    kind: type[asyncpg.Connection[asyncpg.Record]] = asyncpg.Connection,
) -> tuple[asyncpg.Connection[asyncpg.Record], bool]:
    """A connection, and whether a transaction pooler stands in between. Behind one, nothing is set or prepared.

    seconds: to connect. is_pooled: a pooler is known from an earlier connection. kind: of the connection. Raises
    SettingsError for a URL that cannot be used, and asyncpg's errors.
    """
    try:
        if is_pooled:
            return await _without_settings(destination, seconds, kind), True
        try:
            return await _with_settings(destination, settings, seconds, kind), False
        except asyncpg.InsufficientPrivilegeError:
            raise
        except _DO_NOT_HOLD as error:
            return await _in_spite_of(error, destination, settings, seconds, kind)
    except (asyncpg.ClientConfigurationError, ValueError) as error:  # ValueError: an impossible host name
        raise SettingsError(f"The database URL cannot be used: {str(error).splitlines()[0].rstrip('.')}.") from error


_DO_NOT_HOLD = (
    asyncpg.ProtocolViolationError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.DataError,
)
"""Errors by which a pooler refuses a setting, and the error of `_ask` for a setting that was not kept.

A server raises the same errors for a bad setting in the URL. The next attempt, without settings of ours, then raises
again.
"""


async def _in_spite_of(
    refusal: asyncpg.PostgresError,
    destination: str,
    settings: Mapping[str, str],
    seconds: float,
    kind: type[asyncpg.Connection[asyncpg.Record]],
) -> tuple[asyncpg.Connection[asyncpg.Record], bool]:
    try:
        async with _bare(destination, seconds / 3) as ours:
            keeps_a_process = await _keeps_a_process(ours, destination, seconds)
        if keeps_a_process:
            return await _with_settings_made(destination, settings, seconds, kind), False
        return await _without_settings(destination, seconds / 3, kind), True
    except TimeoutError:
        raise refusal from None  # a pooler without its server says why once, then stays silent for a while


def make_settings(settings: Mapping[str, str], version: int, *, for_transaction: bool) -> str:
    """A statement that makes the settings. set_config() takes a list as one string, as the start of a connection
    does."""
    every = {**settings, "transaction_timeout": "0"} if version >= _TRANSACTION_TIMEOUT else settings
    calls = ", ".join(
        f"pg_catalog.set_config({name}, {value}, {str(for_transaction).lower()})" for name, value in _quoted(every)
    )
    return f"select {calls}"


_TRANSACTION_TIMEOUT = 17
"""The first version with transaction_timeout. An older server refuses a connection that starts with the setting."""


async def _without_settings(
    destination: str, seconds: float, kind: type[asyncpg.Connection[asyncpg.Record]]
) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(destination, timeout=seconds, statement_cache_size=0, connection_class=kind)


async def _with_settings(
    destination: str,
    settings: Mapping[str, str],
    seconds: float,
    kind: type[asyncpg.Connection[asyncpg.Record]],
) -> asyncpg.Connection[asyncpg.Record]:
    """A connection whose settings hold from the start. Raises one of _DO_NOT_HOLD if the settings do not hold."""
    connection = await asyncpg.connect(
        destination,
        timeout=seconds,
        server_settings=dict(settings),
        max_cached_statement_lifetime=0,
        connection_class=kind,
    )
    try:
        await connection.execute(_ask(settings, connection.get_server_version().major))
    except BaseException:
        connection.terminate()
        raise
    return connection


def _ask(settings: Mapping[str, str], version: int) -> str:
    """A statement that fails with a division by zero unless each setting holds.

    The server compares each setting with the same value set anew, so that "1s" equals "1000ms". The statement is
    a simple query, because another server process may answer for a prepared one. asyncpg returns no rows of a simple
    query; hence the division. transaction_timeout is set in the same round trip.
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
    destination: str,
    settings: Mapping[str, str],
    seconds: float,
    kind: type[asyncpg.Connection[asyncpg.Record]],
) -> asyncpg.Connection[asyncpg.Record]:
    connection = await asyncpg.connect(
        destination, timeout=seconds, max_cached_statement_lifetime=0, connection_class=kind
    )
    try:
        await connection.execute(make_settings(settings, connection.get_server_version().major, for_transaction=False))
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _keeps_a_process(ours: asyncpg.Connection[asyncpg.Record], destination: str, seconds: float) -> bool:
    """Whether a connection keeps one server process to itself.

    A transaction pooler gives a connection any free server process. So sooner or later the second connection gets the
    first one's process, or the first connection gets another.
    """
    try:
        with anyio.fail_after(min(_WATCH, seconds / 2)):
            async with _bare(destination, seconds) as another:
                process = await _process(ours)
                for _ in range(_LOOKS):
                    if await _process(another) == process:
                        return False
                    if {await _process(ours), await _process(ours)} != {process}:
                        return False
                return True
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return False  # unknown: to set everything in each transaction always works


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
