"""Databases that serve one test after another: emptied in a tenth of the time that it takes to make one.

No test tells what it does to its database: rows and sequences are put back, whatever was done to them, and what else
has changed shows in the catalogue. A database in which anything is not as it was is given up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO

import asyncpg

from tests.support.catalogue import catalogue
from tests.support.jobs import Connection
from tests.support.server import Server
from tests.support.waiting import eventually


@dataclass(frozen=True)
class _AsNew:
    """What a database is like that nobody has used."""

    catalogue: frozenset[str]
    made: frozenset[str]  # schemas and tables
    rows: Mapping[str, bytes]  # of the tables that are not empty
    sequences: Mapping[str, int | None]


class Databases:
    """Those of one worker, from one template."""

    def __init__(self, server: Server, template: str) -> None:
        self._server = server
        self._template = template
        self._free: list[str] = []
        self._as_new: _AsNew | None = None
        self.given_up: list[str] = []
        """For each database that is not lent again: what was not as in a new one."""

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[str]:
        """The URL of a database that is as new."""
        name = self._free.pop() if self._free else await self._make()
        yield self._server.url_of(name)
        if changed := await self._restore(name):
            self.given_up.append(changed)
            await self._server.drop_database(name)
        else:
            self._free.append(name)

    async def close(self) -> None:
        """Drops those that are not lent."""
        while self._free:
            await self._server.drop_database(self._free.pop())

    async def _make(self) -> str:
        name = await self._server.make_database(self._template)
        if not self._as_new:
            async with self._connected(name) as connection:
                self._as_new = await _look(connection)
        return name

    async def _restore(self, name: str) -> str:
        """Makes a database as new; what of it cannot be, if anything."""
        assert self._as_new
        try:
            async with self._connected(name) as connection:
                await connection.execute(_END_OTHERS)
                if changed := await _changed(connection, self._as_new):
                    return min(changed)
                await _put_back(connection, self._as_new)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            return repr(error)
        return ""

    @asynccontextmanager
    async def _connected(self, name: str) -> AsyncIterator[Connection]:
        settings = {"search_path": "", "session_replication_role": "replica", "jit": "off"}
        connection = await asyncpg.connect(self._server.url_of(name), server_settings=settings, statement_cache_size=0)
        try:
            yield connection
        finally:
            await connection.close()


async def until_alone(connection: Connection) -> None:
    """Waits until the other sessions in the connection's database have ended: a client ends before its session does."""

    async def look() -> bool:
        return await connection.fetchval(f"select count(*) = 0 {_CLIENTS}") is True

    await eventually(look)


_CLIENTS = """
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""

_END_OTHERS = """
select pg_terminate_backend(pid, 5000)
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type <> 'autovacuum worker'
"""

_MADE = """
select 'schema if exists ' || quote_ident(nspname) from pg_namespace where not starts_with(nspname, 'pg_')
union all
select 'table if exists ' || pg_class.oid::regclass
from pg_class join pg_namespace on pg_namespace.oid = relnamespace
where relkind in ('r', 'p') and nspname <> 'information_schema' and not starts_with(nspname, 'pg_')
"""

_TABLES = """
select format('%I.%I', nspname, relname), pg_relation_size(pg_class.oid) > 0 or reltuples >= 0
from pg_class join pg_namespace on pg_namespace.oid = relnamespace
where relkind = 'r' and nspname <> 'information_schema' and not starts_with(nspname, 'pg_')
"""

_SEQUENCES = "select seqrelid::regclass::text, pg_sequence_last_value(seqrelid) from pg_sequence"

_SET_SEQUENCES = """
select setval(seqrelid, coalesce(value, seqstart), value is not null)
from unnest($1::text[], $2::bigint[]) as given (name, value)
join pg_sequence on seqrelid = name::regclass
"""

_FORGET_STATISTICS = """
delete from pg_statistic where starelid >= 16384;
delete from pg_statistic_ext_data;
select pg_stat_reset()
"""


async def _look(connection: Connection) -> _AsNew:
    rows = {table: await _rows(connection, table) for table in await _touched(connection)}
    return _AsNew(await catalogue(connection), await _made(connection), rows, await _sequences(connection))


async def _changed(connection: Connection, as_new: _AsNew) -> frozenset[str]:
    """What is not as it was, once schemas and tables that a test has made are gone, and all that hangs on them."""
    if (changed := await catalogue(connection) ^ as_new.catalogue) and (made := await _made(connection) - as_new.made):
        for thing in made:
            await connection.execute(f"drop {thing} cascade")
        changed = await catalogue(connection) ^ as_new.catalogue
    return changed


async def _put_back(connection: Connection, as_new: _AsNew) -> None:
    if emptied := [table for table in await _touched(connection) if table not in as_new.rows]:
        await connection.execute(f"truncate {', '.join(emptied)}")
    for table, rows in as_new.rows.items():
        if await _rows(connection, table) != rows:
            await connection.execute(f"delete from {table}")
            schema, _, name = table.partition(".")
            await connection.copy_to_table(name, schema_name=schema, source=BytesIO(rows), format="binary")
    if changed := as_new.sequences.items() - (await _sequences(connection)).items():
        await connection.execute(_SET_SEQUENCES, *map(list, zip(*changed, strict=True)))
    await connection.execute(_FORGET_STATISTICS)


async def _rows(connection: Connection, table: str) -> bytes:
    held = BytesIO()
    await connection.copy_from_query(f"select * from {table}", output=held, format="binary")
    return held.getvalue()


async def _made(connection: Connection) -> frozenset[str]:
    return frozenset(thing for (thing,) in await connection.fetch(_MADE))


async def _touched(connection: Connection) -> list[str]:
    """The tables that hold, or have held, rows."""
    return [table for table, is_touched in await connection.fetch(_TABLES) if is_touched]


async def _sequences(connection: Connection) -> dict[str, int | None]:
    return dict(map(tuple, await connection.fetch(_SEQUENCES)))
