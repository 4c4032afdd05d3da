"""One connection to the database, opened when it is first needed and thrown away at the first doubt.

A part of pushq that talks to the database owns a Session for as long as it lives; the connections behind it come and
go. Every wait for the driver has a deadline, and whatever means "the database is away" is raised as DatabaseAway, so
that callers know one failure to wait out. Everything else is a bug, and rises.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
import asyncpg

from pushq.database.connect import connect, make_settings
from pushq.database.url import blame, describe, destination
from pushq.errors import DatabaseAway, DatabaseRefused, SettingsError, StatementUndone, ValueRefused

# What the server says while it cannot serve, though nothing is wrong with the statement.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, restart, termination, cancellation by a timeout
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.ReadOnlySQLTransactionError,  # the primary has become a standby
)
_UNDONE = (
    asyncpg.QueryCanceledError,  # by a timeout
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.LockNotAvailableError,
)
"""The connection is sound."""
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
_VALUE_REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)

_OUT_OF_IDS = ("varsup.c", "multixact.c")
"""Where PostgreSQL refuses to give transaction ids until old ones are frozen, with the code of a limit that a value
exceeds. Its sentences are translated, the files' names are not. The connection is sound."""

# The planner's guesses about a table that empties and fills within seconds are always stale. The statements are written
# for one plan each, by index; these settings keep it.
_PLANS = {"jit": "off", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}


class Session:
    """A connection of our own, under `name`. `deadline` is in seconds, for each statement and for connecting."""

    def __init__(
        self, url: str | None, name: str, *, deadline: float = 15.0, settings: Mapping[str, str] | None = None
    ) -> None:
        self._url = url
        self._deadline = deadline
        self._settings = {
            "application_name": name if len(name) <= 63 else f"{name[:20]}..{name[-41:]}",  # its end tells what for
            "default_transaction_isolation": "read committed",
            "statement_timeout": f"{round(deadline * 1000)}ms",
            "lock_timeout": f"{round(deadline * 1000)}ms",
            "idle_in_transaction_session_timeout": f"{round(deadline * 1000)}ms",
            "idle_session_timeout": "0",  # a listener is idle for as long as nothing happens
            "timezone": "UTC",
            "search_path": "pg_catalog, pg_temp",  # so that nothing that somebody has made is taken for the built-in
            **_PLANS,
            **(settings or {}),
        }
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._has_connected = False
        self._turn = anyio.Lock(fast_acquire=True)  # a statement need not wait for a round of the loop
        self.is_pooled = False  # whether a transaction pooler stands in between: see connect.py

    async def fetch(self, statement: str, *arguments: object, deadline: float | None = None) -> list[asyncpg.Record]:
        """The rows of one statement, in a transaction of its own.

        Raises DatabaseAway when its fate is unknown or it was refused for a reason that passes (StatementUndone, where
        the reason is in that statement alone), DatabaseRefused when the server will not have us, and ValueRefused when
        an argument cannot be stored.
        """
        seconds = deadline or self._deadline
        async with self._turn, self._in_use(seconds) as connection:
            if not self.is_pooled:
                return await connection.fetch(statement, *arguments)
            async with connection.transaction(isolation="read_committed"):
                version = connection.get_server_version().major
                await connection.execute(make_settings(self._settings, version, for_transaction=True))
                return await connection.fetch(statement, *arguments)

    async def execute_alone(self, statement: str, *, deadline: float | None = None) -> None:
        """Runs a statement that must not stand in a transaction block."""
        async with self._turn, self._in_use(deadline or self._deadline) as connection:
            await connection.execute(statement)

    async def listen(self, channels: Mapping[str, Callable[[str], None]], *, lost: Callable[[], None]) -> None:
        """Hears notifications: each channel's payloads go to its function, until the connection is `lost`."""
        async with self._turn, self._in_use(self._deadline) as connection:
            connection.add_termination_listener(lambda _: lost())
            for channel, hear in channels.items():
                await connection.add_listener(channel, lambda _c, _p, _ch, payload, hear=hear: hear(payload))

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    def discard(self) -> None:
        """Drops the connection without a word: a broken one would not hear it."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Ends the connection in good order, if it takes no longer than a second."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            with anyio.fail_after(1, shield=True):
                await connection.close()
        except _AWAY:
            connection.terminate()

    @contextlib.asynccontextmanager
    async def _in_use(self, seconds: float) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        try:
            with anyio.fail_after(seconds):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connected(seconds)
                    self._has_connected = True
                yield self._connection
        except _REFUSED as error:
            raise DatabaseRefused(f"{blame(self._url)} refused us: {_message(error)}.") from error
        except _UNDONE as error:
            raise StatementUndone(f"{describe(self._url)} gave up a statement: {_message(error)}.") from error
        except _AWAY as error:
            self.discard()
            raise DatabaseAway(f"{blame(self._url)} is away: {_message(error)}.") from error
        except _VALUE_REFUSED as error:
            raise self._refusal(error) from None  # a traceback would show the DETAIL
        except asyncpg.PostgresError:
            raise  # an answer: the connection is sound
        except BaseException:
            self.discard()  # cancelled half-way: what the connection would answer next is anybody's guess
            raise

    def _refusal(self, error: asyncpg.PostgresError) -> DatabaseAway | ValueRefused:
        if error.server_source_filename in _OUT_OF_IDS:
            return DatabaseAway(f"{describe(self._url)} takes no writes: {_message(error)}.")
        return ValueRefused(_message(error))

    async def _connected(self, seconds: float) -> asyncpg.Connection[asyncpg.Record]:
        try:
            return await self._connect(seconds)
        except SettingsError as error:
            if self._has_connected:  # a file that the URL names is written anew, say
                raise DatabaseAway(str(error)) from error
            raise
        except (asyncpg.SyntaxOrAccessError, asyncpg.DataError) as error:  # of a setting that the URL has
            raise DatabaseRefused(f"{blame(self._url)} refused us: {_message(error)}.") from error
        except asyncpg.ObjectNotInPrerequisiteStateError as error:  # the database takes no connections for now
            raise DatabaseAway(f"{blame(self._url)} is away: {_message(error)}.") from error

    async def _connect(self, seconds: float) -> asyncpg.Connection[asyncpg.Record]:
        connection, self.is_pooled = await connect(
            destination(self._url), self._settings, seconds, is_pooled=self.is_pooled
        )
        return connection


def _message(error: BaseException) -> str:
    """The first line of an error, with its type where it says nothing. Never its DETAIL, which shows rows."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".")


async def fetch_once(url: str | None, name: str, statement: str, *arguments: object) -> list[Any]:
    """One statement on a connection that is opened for it and closed after it."""
    session = Session(url, name, settings={"enable_seqscan": "on"})
    try:
        return await session.fetch(statement, *arguments)
    finally:
        await session.close()
