"""One connection to the database, opened at the first use and discarded at the first doubt.

A part of pushq that talks to the database owns a Session for life; the connections behind the session come and go.
Every wait for the driver has a deadline. Every error of the server or the driver is raised as a DatabaseTrouble, whose
subclasses tell callers what to do: DatabaseAway is waited out. Only bugs raise Python's own errors.
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
"""Errors of asyncpg for a connection that is gone or cannot be used."""
DRIVER = (*_NO_ANSWER, asyncpg.PostgresError, asyncpg.PostgresWarning)
"""What asyncpg raises while a connection is in use."""

Said: TypeAlias = asyncpg.PostgresError | asyncpg.PostgresWarning
READ_ONLY = "25006"
# By SQLSTATE or a prefix; the longest match counts. Every other state is an UnexpectedState.
_STATES: Mapping[str, type[DatabaseTrouble]] = {
    "08": DatabaseAway,  # connections
    READ_ONLY: DatabaseAway,  # the primary has become a standby
    "53": DatabaseAway,  # too many connections, no memory, the disk is full
    "57P": DatabaseAway,  # shutdown, restart, recovery, a dropped database
    "58": DatabaseAway,  # the operating system, or files being replaced by an upgrade
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
"""Source files in which PostgreSQL refuses new transaction ids until old ids are frozen.

The SQLSTATE is the one for values that exceed a limit, and messages are translated. Only the file tells the two apart.
"""

# The planner's statistics of a table that empties and fills within seconds are always stale. Each statement is written
# for one plan, by index, and these settings keep the plan. Every sequential scan starts at the first page.
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
    """A connection of one part. name: its application_name. deadline: seconds for each statement, and for connecting.

    Statements wait for one another.
    """

    def __init__(
        self, url: str | None, name: str, *, deadline: float = 15.0, settings: Mapping[str, str] | None = None
    ) -> None:
        self._url = url
        self._deadline = deadline
        self.settings = {
            "application_name": name if len(name) <= 63 else f"{name[:20]}..{name[-41:]}",  # the purpose is at the end
            "default_transaction_isolation": "read committed",
            "statement_timeout": f"{round(deadline * 1000)}ms",
            "lock_timeout": f"{round(deadline * 800)}ms",  # sooner, to tell a lock from a slow statement
            "idle_in_transaction_session_timeout": f"{round(deadline * 1000)}ms",
            "idle_session_timeout": "0",  # a listener may be idle for long
            "timezone": "UTC",
            "search_path": "pg_catalog, pg_temp",  # so that no user's object is taken for a built-in
            **_PLANS,
            **(settings or {}),
        }
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._has_connected = False
        self._turn = anyio.Lock(fast_acquire=True)  # no round of the loop for a free lock
        self.slowest_answer = 0.0
        """Seconds of the slowest statement since this was last set to 0."""
        self.is_pooled = False  # behind a transaction pooler: see connect.py

    async def fetch(self, statement: str, *arguments: object, deadline: float | None = None) -> list[asyncpg.Record]:
        """The rows of one statement, in a transaction of its own.

        deadline: seconds. Raises DatabaseAway when the statement's fate is unknown, or the server cannot serve. Raises
        StatementRolledBack when the server rolled the statement back: UnexpectedState if the reason may last,
        ValueRefused if a value cannot be stored. Raises DatabaseRefused for a missing right, or a refused login.
        """
        seconds = deadline or self._deadline
        async with self._turn, self._in_use(seconds) as connection:
            if not self.is_pooled:
                return await connection.fetch(statement, *arguments)
            async with connection.transaction(isolation="read_committed"):
                version = connection.get_server_version().major
                await connection.execute(make_settings(self.settings, version, for_transaction=True))
                return await connection.fetch(statement, *arguments)

    async def execute_alone(self, statement: str, *, deadline: float | None = None) -> None:
        """Runs a statement that must not stand in a transaction block. Raises like fetch."""
        async with self._turn, self._in_use(deadline or self._deadline) as connection:
            await connection.execute(statement)

    async def listen(self, channels: Mapping[str, Callable[[str], None]], *, lost: Callable[[], None]) -> None:
        """Listens: calls a channel's function with each payload, and `lost` when the connection ends.

        Raises like fetch.
        """
        async with self._turn, self._in_use(self._deadline) as connection:
            connection.add_termination_listener(lambda _: lost())
            for channel, hear in channels.items():
                await connection.add_listener(channel, lambda _c, _p, _ch, payload, hear=hear: hear(payload))

    def discard(self) -> None:
        """Drops the connection without a goodbye, which a broken connection would not hear."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Ends the connection in good order, within a second, else without a goodbye."""
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
            # Not anyio.fail_after(): a PostgresWarning that a trigger raises does not pass through contextlib's
            # managers.
            with anyio.move_on_after(seconds) as in_time:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connected(seconds)
                    self._has_connected = True
                yield self._connection
            if in_time.cancelled_caught:
                raise TimeoutError
        except DRIVER as error:
            raised = self.judged(error)
            raise raised from (None if isinstance(raised, ValueRefused) else error)  # its DETAIL shows values
        except BaseException:
            self.discard()  # cancelled half-way: the next answer could be to this statement
            raise
        finally:
            self.slowest_answer = max(self.slowest_answer, monotonic() - began)

    def judged(self, error: Exception) -> DatabaseTrouble:
        """The error to raise for one of DRIVER. Discards a connection in doubt."""
        if isinstance(error, asyncpg.PostgresError | asyncpg.PostgresWarning):
            raised = self._raised(error)
            if not isinstance(raised, StatementRolledBack | DatabaseRefused):
                self.discard()
            return raised
        self.discard()
        return DatabaseAway(f"{blame(self._url)} is away: {_message(error)}.")

    def _raised(self, error: Said) -> DatabaseTrouble:
        """The error to raise for an error of the server."""
        kind = kind_of(error)
        # asyncpg raises some errors with a state by itself: for a lost connection, or a value that cannot be sent.
        is_answer = not _is_fatal(error) and (kind is not DatabaseAway or bool(_severity(error)))
        state = (error.sqlstate or "") if is_answer else ""
        message, where = _message(error), describe(self._url)
        if error.sqlstate == READ_ONLY:
            # Not the message, which names the statement: an outage has one reason.
            return kind(f"{where} takes no writes, only read-only transactions; give the URL of the primary.", state)
        sentences: Mapping[type[PushqError], str] = {
            DatabaseAway: f"{blame(self._url)} is away: {message}.",
            DatabaseRefused: f"{blame(self._url)} refused us: {message}.",
            StatementRolledBack: f"{where} rolled a statement back: {message}.",
            UnexpectedState: f"{where} rolled a statement back ({state}): {message}.",
            ValueRefused: message,
        }
        return kind(sentences[kind], state)

    async def _connected(self, seconds: float) -> asyncpg.Connection[asyncpg.Record]:
        try:
            return await self._connect(seconds)
        except SettingsError as error:
            if self._has_connected:  # for example a certificate that is being replaced
                raise DatabaseAway(str(error)) from error
            raise
        except (asyncpg.SyntaxOrAccessError, asyncpg.DataError) as error:  # for a setting in the URL
            raise DatabaseRefused(f"{blame(self._url)} refused us: {_message(error)}.") from error
        except (asyncpg.ObjectNotInPrerequisiteStateError, RuntimeError) as error:
            # The database takes no connections for now, or no thread is left to look up the host's name.
            raise DatabaseAway(f"{blame(self._url)} is away: {_message(error)}.") from error

    async def _connect(self, seconds: float) -> asyncpg.Connection[asyncpg.Record]:
        connection, self.is_pooled = await connect(
            destination(self._url), self.settings, seconds, is_pooled=self.is_pooled
        )
        return connection


def kind_of(error: Said) -> type[DatabaseTrouble]:
    """The class of error for an error of the server."""
    state = error.sqlstate or ""
    kind = next((_STATES[state[:length]] for length in (5, 3, 2) if state[:length] in _STATES), UnexpectedState)
    if kind is not DatabaseRefused and (_is_fatal(error) or _said_in(error) in _OUT_OF_IDS):
        return DatabaseAway
    return kind


def _is_fatal(error: Said) -> bool:
    """Whether the error has ended the connection."""
    return _severity(error) in ("FATAL", "PANIC")


def _severity(error: Said) -> str | None:
    return getattr(error, "severity_en", None)


def _said_in(error: Said) -> str | None:
    return getattr(error, "server_source_filename", None)


def _message(error: BaseException) -> str:
    """The first line of an error, or the type of an empty one. Never the DETAIL, which shows rows."""
    if isinstance(error, asyncpg.InternalClientError):  # whose text is about the driver's own states
        return "the connection ended in the middle of a statement"
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".")


async def fetch_once(url: str | None, name: str, statement: str, *arguments: object) -> list[Any]:
    """Runs one statement on a connection of its own. Raises like Session.fetch."""
    session = Session(url, name, settings={"enable_seqscan": "on"})
    try:
        return await session.fetch(statement, *arguments)
    finally:
        await session.close()
