"""The PostgreSQL of a test run: the embedded one, or that of PUSHQ_TEST_DATABASE_URL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from pushq.database.embedded import EmbeddedServer, find_binaries


@dataclass(frozen=True)
class Server:
    """Where a run's databases are made; run: what their names begin with. All strings, to travel to xdist's workers."""

    url: str
    bin_directory: str
    run: str

    def url_of(self, database: str) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/{database}" + (f"?{parts.query}" if parts.query else "")

    @asynccontextmanager
    async def fresh_database(self, template: str = "template1", encoding: str | None = None) -> AsyncIterator[str]:
        """The URL of a database that is gone afterwards, whoever is still connected."""
        name = f"{self.run}_{uuid4().hex[:8]}"
        async with self._administrator() as administrator:
            encoded = f"encoding '{encoding}' locale 'C'" if encoding else ""
            await administrator.execute(f"create database {name} template {template} strategy file_copy {encoded}")
        yield self.url_of(name)
        async with self._administrator() as administrator:
            await administrator.execute(f"drop database if exists {name} with (force)")

    async def make_template(self) -> str:
        """The name of a migrated database, made by the first worker that asks."""
        from pushq.database.migrate import migrate

        name, unfinished = f"{self.run}_template", f"{self.run}_unfinished"
        async with self._administrator() as administrator:
            await administrator.execute(f"select pg_advisory_lock(hashtext('{self.run}'))")
            if await administrator.fetchval("select true from pg_database where datname = $1", name):
                return name
            await administrator.execute(f"drop database if exists {unfinished} with (force)")
            await administrator.execute(f"create database {unfinished}")
            await migrate(self.url_of(unfinished))
            await administrator.execute(f"alter database {unfinished} rename to {name}")
        return name

    async def drop_everything(self) -> None:
        async with self._administrator() as administrator:
            ours = "select datname from pg_database where starts_with(datname, $1)"
            for row in await administrator.fetch(ours, f"{self.run}_"):
                await administrator.execute(f"drop database if exists {row['datname']} with (force)")

    @asynccontextmanager
    async def _administrator(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()


@contextmanager
def running_server() -> Iterator[Server]:
    run = f"pushq_test_{uuid4().hex[:8]}"
    if given := os.environ.get("PUSHQ_TEST_DATABASE_URL"):
        server = Server(given, str(find_binaries().directory), run)
        yield server
        asyncio.run(server.drop_everything())
    else:
        with EmbeddedServer(settings={"max_prepared_transactions": "10"}) as embedded:
            yield Server(embedded.url(), str(embedded.bin_directory), run)
