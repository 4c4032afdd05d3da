"""Connections that are lent to handlers, each for one transaction.

Theory of operation. A handler gets a connection with the settings of its role, as the app's own connections have, and
none of pushq's. The transaction is begun for the handler, and ends by the part of pushq that ends the job. The handler
may leave anything behind on the connection. What becomes of it:

    left behind                         what becomes of it
    ───────────────────────────────────────────────────────────────────────────────────────────────
    settings, a role, cursors, LISTEN   made as new, in the message that commits or rolls back
    advisory locks of the session       let go by the statement that ends the job, or with the rollback
    temporary tables, listeners         the connection is closed
    a statement in progress             cancelled at the server; the connection is closed unless a rollback succeeds
    a task that still has the connection  gets an error of asyncpg: what was lent is a proxy
    COMMIT or ROLLBACK of the handler's own  noticed: the transaction that was begun for the handler is deferrable,
                                        which has no effect, and another would not be

A connection that is in any doubt is closed, and the next handler gets a new one. While a process is dead and its
server still works at a statement, the server looks each second whether the client is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from time import monotonic
from typing import Any

import anyio
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pushq.database.connect import connect
from pushq.database.patience import is_rejection, reconnect_delay
from pushq.database.session import DRIVER, Session
from pushq.database.url import destination
from pushq.errors import DatabaseTrouble, TransactionBroken

PATIENCE = 15.0
"""Seconds for which a handler waits for a connection while the database is away."""
LINGER = 60.0
"""Seconds for which a connection outlives its last use."""
DEADLINE = 15.0
"""Seconds for each statement of pushq's. Then the connection is closed."""
WATCH = 1.0
"""Seconds between two looks for statements that take too long."""
ROLLBACK = 5.0
"""Seconds that a rollback may take. Then the connection is closed, and the server rolls back."""
_READ = 16 * 1024
"""Bytes that are read at once. asyncio asks for sixteen times as many, for which a pool gets pages from the system each
time (pushq/pool/memory.py). These took a tenth of a job's CPU."""
_AS_NEW = ";close all;reset role;reset all;unlisten *"
_LET_GO = ";select pg_catalog.pg_advisory_unlock_all()"


class _Connection(asyncpg.Connection):
    """also: added to the next statement, which ends the transaction, to save a round trip."""

    __slots__ = ("also",)

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        transport: Any = given[1]
        if hasattr(transport, "max_size"):
            transport.max_size = _READ
        self.also = ""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's
        if self.also:
            query, self.also = query.rstrip(";") + self.also, ""
        return await super().execute(query, *args, timeout=timeout)

    def leave(self, proxy: PoolConnectionProxy[asyncpg.Record]) -> bool:
        """Takes the connection from whoever has the proxy still. Returns whether another handler may have it.

        asyncpg's own pool does as much. If the private names change, a test in `tests/promises/test_transactional.py`
        fails: `test_the_next_handler_finds_nothing_that_a_handler_has_left_on_the_connection`.
        """
        proxy._detach()  # type: ignore[attr-defined]  # noqa: SLF001
        self._pool_release_ctr: int = self._pool_release_ctr + 1  # statements and savepoints of the handler's are dead
        if self.is_closed() or self.is_in_transaction():
            return False
        return not (self._listeners or self._log_listeners)  # type: ignore[attr-defined]


class _LentSession(Session):
    """A connection that handlers use, one after the other.

    until: when a statement of pushq's that is under way has taken too long. The lender looks, since a timer for each
    statement costs more than all the rest of a deadline.
    """

    def __init__(self, url: str | None, name: str) -> None:
        super().__init__(url, name)
        self.settings = {
            "application_name": self.settings["application_name"],
            "client_connection_check_interval": "1s",
        }
        self.idle_since = 0.0
        self.until = inf

    @property
    def is_usable(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def begin(self) -> Lent:
        """Begins a transaction. Raises DatabaseTrouble."""
        if not self.is_usable:
            async with self._in_use(DEADLINE):
                pass  # connects
        connection = self._connection
        assert isinstance(connection, _Connection)
        transaction = connection.transaction(isolation="read_committed", deferrable=True)
        self.until = monotonic() + DEADLINE
        try:
            await transaction.start()
        except DRIVER as error:
            raise self.judged(error) from error
        finally:
            self.until = inf
        return Lent(self, connection, transaction)

    async def _connect(self, seconds: float) -> asyncpg.Connection[asyncpg.Record]:
        connection, self.is_pooled = await connect(
            destination(self._url), self.settings, seconds, is_pooled=self.is_pooled, kind=_Connection
        )
        return connection


class Lent:
    """A transaction on a lent connection. connection: what the handler gets."""

    def __init__(self, session: _LentSession, connection: _Connection, transaction: Any) -> None:
        self.connection: Any = PoolConnectionProxy(None, connection)  # type: ignore[arg-type]  # no pool of asyncpg's
        self._session = session
        self._own = connection
        self._transaction = transaction

    async def fetch(self, statement: str, *arguments: object) -> list[Any]:
        """The rows of a statement in the transaction.

        Raises TransactionBroken if the handler has left no transaction in which statements can run, DatabaseAway if the
        database does not answer, and other DatabaseTrouble, with a state, if the database has refused the statement.
        """
        self._refuse_broken()
        self._session.until = monotonic() + DEADLINE
        try:
            return await self._own.fetch(statement, *arguments)
        except asyncpg.InFailedSQLTransactionError:
            raise TransactionBroken(
                "An earlier statement of the handler's has failed, which aborts the transaction, and the handler has "
                "returned all the same; let the error pass, or run the statement in a savepoint: "
                "`async with connection.transaction()`."
            ) from None
        except DRIVER as error:
            if isinstance(error, asyncpg.InterfaceError) and not self._own.is_closed():
                raise TransactionBroken(
                    "The handler has returned while its connection is at work; await everything that uses it."
                ) from None
            raise self._session.judged(error) from error
        finally:
            self._session.until = inf

    async def commit(self) -> None:
        """Commits. Raises DatabaseTrouble: whether the transaction was committed is unknown then."""
        self._own.also = "" if self._session.is_pooled else _AS_NEW
        self._session.until = monotonic() + DEADLINE
        try:
            await self._transaction.commit()
        except DRIVER as error:
            raise self._session.judged(error) from error
        finally:
            self._session.until = inf

    async def roll_back(self) -> None:
        """Rolls back, if need be by closing the connection. Raises nothing, and is not cancelled."""
        with anyio.move_on_after(ROLLBACK, shield=True):
            try:
                self._own.also = "" if self._session.is_pooled else _AS_NEW + _LET_GO
                await self._transaction.rollback()
            except DRIVER:
                self._session.discard()
            return
        self._session.discard()

    def leave(self) -> bool:
        """Takes the connection from the handler. Returns whether another handler may have it."""
        return self._own.leave(self.connection)

    def _refuse_broken(self) -> None:
        if self._own.is_closed():
            raise TransactionBroken(
                "The connection of the job's transaction was closed before the handler returned: by the handler, or by "
                "the database, as idle_in_transaction_session_timeout and transaction_timeout ask for, and a restart."
            )
        if not self._own.is_in_transaction():
            raise ended_by_handler()


def ended_by_handler() -> TransactionBroken:
    return TransactionBroken(
        "The handler has ended its job's transaction by a COMMIT or ROLLBACK of its own, so its writes and the end of "
        "the job cannot be committed together; leave both to pushq, and use savepoints: "
        "`async with connection.transaction()`."
    )


class Lender:
    """Lends connections, each opened when none is free. name: application_name."""

    def __init__(self, url: str | None, name: str) -> None:
        self._url = url
        self._name = name
        self._free = deque[_LentSession]()
        self._lent = dict[Lent, _LentSession]()
        self._beginning = set[_LentSession]()
        self._is_watching = False
        self._some_free = anyio.Event()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._free) + len(self._lent)

    async def begin(self) -> Lent:
        """Begins a transaction on a connection. Waits while the database is away. Raises DatabaseTrouble."""
        until = monotonic() + PATIENCE
        failures = 0
        while True:
            session = self._take()
            self._beginning.add(session)
            self._watch()
            try:
                lent = await session.begin()
            except DatabaseTrouble as error:
                session.discard()
                failures += 1
                delay = reconnect_delay(failures).total_seconds()
                if is_rejection(error) or monotonic() + delay > until:
                    raise
                await anyio.sleep(delay)
            except BaseException:
                session.discard()
                raise
            else:
                self._lent[lent] = session
                return lent
            finally:
                self._beginning.discard(session)

    def give_back(self, lent: Lent, *, is_as_new: bool = True) -> None:
        """Takes a connection back, after its transaction has ended. is_as_new: it may be lent again."""
        session = self._lent.pop(lent)
        may_be_lent = lent.leave()
        if not may_be_lent or not is_as_new or not session.is_usable:
            session.discard()
            return
        session.idle_since = monotonic()
        self._free.append(session)
        self._some_free.set()

    async def run(self) -> None:
        """Closes connections that have not been used for a while, until cancelled."""
        while True:
            await self._some_free.wait()
            await anyio.sleep(LINGER / 4)
            while self._free and self._free[0].idle_since < monotonic() - LINGER:
                await self._free.popleft().close()
            if not self._free:
                self._some_free = anyio.Event()

    async def close(self) -> None:
        """Closes all connections that are free. A handler that goes on loses its connection."""
        for session in self._lent.values():
            session.discard()
        while self._free:
            await self._free.pop().close()

    def _watch(self) -> None:
        """Looks once a second for statements that take too long, while any connection is lent."""
        if not self._is_watching:
            self._is_watching = True
            asyncio.get_running_loop().call_later(WATCH, self._look)

    def _look(self) -> None:
        self._is_watching = False
        at_work = (*self._lent.values(), *self._beginning)
        for session in at_work:
            if session.until < monotonic():
                session.discard()
        if at_work:
            self._watch()

    def _take(self) -> _LentSession:
        while self._free:
            if (session := self._free.pop()).is_usable:  # the latest: the others may come to be closed
                return session
        return _LentSession(self._url, self._name)
