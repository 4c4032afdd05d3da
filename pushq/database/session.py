"""One connection to the database, opened when it is first needed and thrown away at the first doubt.

A part of pushq that talks to the database owns a Session for as long as it lives; the connections behind it come and
go. Every wait for the driver has a deadline, and whatever means "the database is away" is raised as DatabaseAway, so
that callers know one failure to wait out. Whatever else the server says is one of ours, too: only Python's own errors
are bugs, and rise.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from time import monotonic
from typing import Any, TypeAlias

import anyio
import asyncpg

from pushq.database.connect import connect, make_settings
from pushq.database.url import blame, describe, destination
from pushq.errors import (
    DatabaseAway,
    DatabaseRefused,
    DatabaseTrouble,
    PushqError,
    SettingsError,
    StatementRolledBack,
    UnexpectedState,
    ValueRefused,
)

_NO_ANSWER = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""How asyncpg says that there is no connection any more, or none that can be used."""

Said: TypeAlias = asyncpg.PostgresError | asyncpg.PostgresWarning
# What the server says, by SQLSTATE or its class, the longest that fits. What is not here is UnexpectedState.
_STATES: Mapping[str, type[DatabaseTrouble]] = {
    "08": DatabaseAway,  # connections
    "25006": DatabaseAway,  # read-only: the primary has become a standby
    "53": DatabaseAway,  # too many connections, no memory, the disk is full
    "57P": DatabaseAway,  # shutdown, restart, recovery, a dropped database
    "58": DatabaseAway,  # the system beneath: also its files, when they are replaced by an upgrade
    "40": StatementRolledBack,  # deadlock, serialization
    "55P03": StatementRolledBack,  # a lock
    "22": ValueRefused,
    "23": ValueRefused,  # constraints
    "54": ValueRefused,  # limits
    "28": DatabaseRefused,  # passwords, roles
    "3D000": DatabaseRefused,  # no such database
    "42501": DatabaseRefused,  # no such right
}
_OUT_OF_IDS = ("varsup.c", "multixact.c")
"""Where PostgreSQL refuses to give transaction ids until old ones are frozen, with the code of a limit that a value
exceeds. Its sentences are translated, the files' names are not."""

# The planner's guesses about a table that empties and fills within seconds are always stale. The statements are written
# for one plan each, by index; these settings keep it. A table without one is read from its beginning by everybody.
_PLANS = {
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_memoize": "off",
    "plan_cache_mode": "force_generic_plan",
    "synchronize_seqscans": "off",
}


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
            "lock_timeout": f"{round(deadline * 800)}ms",  # sooner: a lock is to be told from a statement that lasts
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
        self.slowest_answer = 0.0
        """Seconds that a statement took, at most, since somebody last set it."""
        self.is_pooled = False  # whether a transaction pooler stands in between: see connect.py

    async def fetch(self, statement: str, *arguments: object, deadline: float | None = None) -> list[asyncpg.Record]:
        """The rows of one statement, in a transaction of its own.

        Raises DatabaseAway when the statement's fate is unknown, or the server cannot serve; StatementRolledBack when
        the server answered and rolled the statement back (UnexpectedState where the reason may last, ValueRefused where
        a value cannot be stored); DatabaseRefused when the server will not have us. Raises nothing else.
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
        except (*_NO_ANSWER, asyncpg.PostgresError):
            connection.terminate()

    @contextlib.asynccontextmanager
    async def _in_use(self, seconds: float) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        began = monotonic()
        try:
            # No context manager of contextlib's: what a trigger raises as a warning is no error that it can pass on.
            with anyio.move_on_after(seconds) as in_time:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connected(seconds)
                    self._has_connected = True
                yield self._connection
            if in_time.cancelled_caught:
                raise TimeoutError
        except (asyncpg.PostgresError, asyncpg.PostgresWarning) as error:
            raised = self._raised(error)
            if not isinstance(raised, StatementRolledBack | DatabaseRefused):
                self.discard()
            raise raised from (None if isinstance(raised, ValueRefused) else error)  # a traceback would show the DETAIL
        except _NO_ANSWER as error:
            self.discard()
            raise DatabaseAway(f"{blame(self._url)} is away: {_message(error)}.") from error
        except BaseException:
            self.discard()  # cancelled half-way: what the connection would answer next is anybody's guess
            raise
        finally:
            self.slowest_answer = max(self.slowest_answer, monotonic() - began)

    def _raised(self, error: Said) -> DatabaseTrouble:
        """What it is to us that the server says."""
        kind = kind_of(error)
        # asyncpg itself says, with a state, that a connection is gone, and that it cannot send a value.
        is_answer = not _is_fatal(error) and (kind is not DatabaseAway or bool(_severity(error)))
        state = (error.sqlstate or "") if is_answer else ""
        message, where = _message(error), describe(self._url)
        sentences: Mapping[type[PushqError], str] = {
            DatabaseAway: f"{blame(self._url)} is away: {message}.",
            DatabaseRefused: f"{blame(self._url)} refused us: {message}.",
            StatementRolledBack: f"{where} gave up a statement: {message}.",
            UnexpectedState: f"{where} gave up a statement ({state}): {message}.",
            ValueRefused: message,
        }
        return kind(sentences[kind], state)

    async def _connected(self, seconds: float) -> asyncpg.Connection[asyncpg.Record]:
        try:
            return await self._connect(seconds)
        except SettingsError as error:
            if self._has_connected:  # a file that the URL names is written anew, say
                raise DatabaseAway(str(error)) from error
            raise
        except (asyncpg.SyntaxOrAccessError, asyncpg.DataError) as error:  # of a setting that the URL has
            raise DatabaseRefused(f"{blame(self._url)} refused us: {_message(error)}.") from error
        except (asyncpg.ObjectNotInPrerequisiteStateError, RuntimeError) as error:
            # It takes no connections for now, or there is no thread to look up its host's name in.
            raise DatabaseAway(f"{blame(self._url)} is away: {_message(error)}.") from error

    async def _connect(self, seconds: float) -> asyncpg.Connection[asyncpg.Record]:
        connection, self.is_pooled = await connect(
            destination(self._url), self._settings, seconds, is_pooled=self.is_pooled
        )
        return connection


def kind_of(error: Said) -> type[DatabaseTrouble]:
    """Which of our errors it is."""
    state = error.sqlstate or ""
    kind = next((_STATES[state[:length]] for length in (5, 3, 2) if state[:length] in _STATES), UnexpectedState)
    if kind is not DatabaseRefused and (_is_fatal(error) or _said_in(error) in _OUT_OF_IDS):
        return DatabaseAway
    return kind


def _is_fatal(error: Said) -> bool:
    """Whether the connection has ended with it."""
    return _severity(error) in ("FATAL", "PANIC")


def _severity(error: Said) -> str | None:
    return getattr(error, "severity_en", None)


def _said_in(error: Said) -> str | None:
    return getattr(error, "server_source_filename", None)


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
