"""The connections that can insert a job, told by a method that no other has: for type checkers, without the drivers."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias


class HasFetch(Protocol):
    """asyncpg: a Connection, a connection lent by a Pool, or a Pool."""

    async def fetch(self, query: str, /, *args: Any) -> list[Any]: ...


class HasAsyncSetAutocommit(Protocol):
    """psycopg 3: an AsyncConnection."""

    async def set_autocommit(self, value: Any, /) -> None: ...


class HasAsyncDriverSql(Protocol):
    """SQLAlchemy: an AsyncConnection."""

    async def exec_driver_sql(self, statement: str, /) -> Any: ...


class HasAsyncConnection(Protocol):
    """SQLAlchemy: an AsyncSession, or an async_scoped_session."""

    async def connection(self) -> Any: ...


class HasSetAutocommit(Protocol):
    """psycopg 3: a Connection. Django: a connection."""

    def set_autocommit(self, value: Any, /) -> None: ...


class HasDriverSql(Protocol):
    """SQLAlchemy: a Connection."""

    def exec_driver_sql(self, statement: str, /) -> Any: ...


class HasConnection(Protocol):
    """SQLAlchemy: a Session, or a scoped_session."""

    def connection(self) -> HasDriverSql: ...


AsyncConnection: TypeAlias = HasFetch | HasAsyncSetAutocommit | HasAsyncDriverSql | HasAsyncConnection
SyncConnection: TypeAlias = HasSetAutocommit | HasDriverSql | HasConnection
