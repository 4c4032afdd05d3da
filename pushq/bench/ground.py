"""The databases of a benchmark: fresh, migrated, on one server, all dropped at the end, with the roles of the run."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from types import MappingProxyType
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import anyio

from pushq.bench.connection import Connection, connected, refusals_explained
from pushq.bench.pgbench import Pgbench
from pushq.database.migrate import migrate
from pushq.database.session import fetch_once
from pushq.database.url import normalise

EMBEDDED_SETTINGS = MappingProxyType(
    {"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min", "max_connections": "200"}
)
"""Settings of the embedded server. Every other setting, fsync and autovacuum included, has PostgreSQL's default."""

SHOWN = (
    "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers", "max_wal_size",
    "checkpoint_timeout", "max_connections", "autovacuum", "jit",
)  # fmt: skip

DROP_ROLE = """
do $$
begin
    drop role if exists {};
exception
    when dependent_objects_still_exist then null;  -- somebody else has come to use the role
end
$$
"""


class Ground:
    """A server on which databases may be made. url: of any database of the server."""

    def __init__(self, url: str, pgbench: Pgbench) -> None:
        self.url = url
        self.pgbench = pgbench
        self._prefix = f"pushq_bench_{os.getpid()}_{secrets.token_hex(4)}"
        self._numbers = count(1)
        self.roles = set[str]()
        """Names of roles that the run makes, to be dropped at the end."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str, pgbench: Pgbench) -> AsyncIterator[Self]:
        """Makes the template database, and drops all databases at the end.

        Raises DatabaseTrouble, SchemaError, and UsageError for a missing right.
        """
        await fetch_once(url, "pushq bench", "select 1")
        ground = cls(url, pgbench)
        try:
            async with refusals_explained(url), ground._administrator() as administrator:
                await administrator.execute(f"create database {ground._template}")
            await migrate(ground._url_of(ground._template))
            yield ground
        finally:
            with anyio.CancelScope(shield=True):
                await ground._drop_everything()

    @asynccontextmanager
    async def database(self, *, is_empty: bool = False) -> AsyncIterator[str]:
        """The URL of a fresh database with pushq's schema, or of an empty one."""
        name, template = f"{self._prefix}_{next(self._numbers)}", "template0" if is_empty else self._template
        async with self._administrator() as administrator:
            await administrator.execute(f"create database {name} template {template}")
        yield self._url_of(name)  # after an error, the database is dropped at the end of the run
        async with self._administrator() as administrator:
            await administrator.execute(f"drop database if exists {name} with (force)")

    async def settings(self) -> dict[str, str]:
        """The server's version, and the settings that figures depend on."""
        async with self._administrator() as administrator:
            shown = {"server_version": await administrator.fetchval("show server_version")}
            for name in SHOWN:
                shown[name] = await administrator.fetchval("select current_setting($1, true)", name)
        return shown

    @property
    def _template(self) -> str:
        return f"{self._prefix}_template"

    def _url_of(self, database: str) -> str:
        parts = urlsplit(normalise(self.url))
        query = "&".join(one for one in parts.query.split("&") if not one.startswith(("dbname=", "database=")))
        return f"{parts.scheme}://{parts.netloc}/{quote(database)}" + (f"?{query}" if query else "")

    async def _drop_everything(self) -> None:
        with anyio.move_on_after(60), suppress(OSError):  # databases go with a server that is gone
            async with self._administrator() as administrator:
                ours = "select datname from pg_database where starts_with(datname, $1)"
                for row in await administrator.fetch(ours, f"{self._prefix}_"):
                    await administrator.execute(f"drop database if exists {row['datname']} with (force)")
                for role in sorted(self.roles):
                    await administrator.execute(DROP_ROLE.format(role))

    @asynccontextmanager
    async def _administrator(self) -> AsyncIterator[Connection]:
        async with connected(self.url) as connection:
            yield connection


def database_in(url: str) -> str:
    """The name of the database in a URL."""
    return unquote(urlsplit(url).path.lstrip("/"))


def with_socket_as_host(url: str) -> str:
    """A URL whose host is the path of a socket, if the query names one: other drivers understand that form alone."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if not (directory := query.pop("host", "")).startswith("/"):
        return url
    account = parts.netloc.rpartition("@")[0]
    host = f"{quote(directory, safe='')}:{query.pop('port', '5432')}"
    netloc = f"{account}@{host}" if account else host
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query), ""))


async def settle(connection: Connection) -> None:
    """Vacuums and checkpoints, so that the next measurement pays for nothing of the last."""
    await connection.execute("vacuum (analyze) pushq.jobs_unfinished")
    await checkpoint(connection)


async def checkpoint(connection: Connection) -> None:
    """Makes a checkpoint, if the role may. Without checkpoints, figures vary a little more."""
    if await may_checkpoint(connection):
        await connection.execute("checkpoint")


async def may_checkpoint(connection: Connection) -> bool:
    return bool(
        await connection.fetchval(
            "select rolsuper or pg_has_role(oid, 'pg_checkpoint', 'usage') from pg_roles where rolname = current_user"
        )
    )
