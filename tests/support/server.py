"""The servers of a test run: the embedded PostgreSQL or that of PUSHQ_TEST_DATABASE_URL, and the oldest PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from pushq.errors import PushqError, UsageError
from pushq.local.server import Binaries, EmbeddedServer, find_binaries
from tests.support import oldest

ADDRESSES = pytest.StashKey[dict[str, str]]()
"""Where the servers of SERVERS are asked for."""
_SETTINGS = {"max_prepared_transactions": "10"}


@dataclass(frozen=True)
class Server:
    """Where a run's databases are made; run: what their names begin with."""

    url: str
    bin_directory: str
    run: str

    def url_of(self, database: str) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/{database}" + (f"?{parts.query}" if parts.query else "")

    @asynccontextmanager
    async def fresh_database(self, template: str = "template1", encoding: str | None = None) -> AsyncIterator[str]:
        """The URL of a database that is gone afterwards, whoever is still connected."""
        name = await self.make_database(template, encoding)
        yield self.url_of(name)
        await self.drop_database(name)

    async def make_database(self, template: str, encoding: str | None = None) -> str:
        name = f"{self.run}_{uuid4().hex[:8]}"
        encoded = f"encoding '{encoding}' locale 'C'" if encoding else ""
        async with self._administrator() as administrator:
            await administrator.execute(f"create database {name} template {template} strategy file_copy {encoded}")
        return name

    async def drop_database(self, name: str) -> None:
        async with self._administrator() as administrator:
            await administrator.execute(f"drop database if exists {name} with (force)")

    async def make_template(self) -> str:
        """The name of a migrated database, made by the first worker that asks."""
        from pushq.database.migrate import migrate

        return await self.make_once("template", "template1", migrate)

    async def make_once(self, name: str, template: str, prepare: Callable[[str], Awaitable[object]]) -> str:
        """The name of a database of the run that the first worker to ask makes and prepares, given the URL."""
        whole, unfinished = f"{self.run}_{name}", f"{self.run}_unfinished"
        async with self._administrator() as administrator:
            await administrator.execute(f"select pg_advisory_lock(hashtext('{self.run}'))")
            if await administrator.fetchval("select true from pg_database where datname = $1", whole):
                return whole
            await administrator.execute(f"drop database if exists {unfinished} with (force)")
            await administrator.execute(f"create database {unfinished} template {template}")
            await prepare(self.url_of(unfinished))
            await administrator.execute(f"alter database {unfinished} rename to {whole}")
        return whole

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


class OnDemand:
    """One of a run's servers, which is started when the first of pytest's processes asks for it at an address.

    By a thread of the one that lives longest, since a server dies with the thread that started it.
    """

    def __init__(self, running: Callable[[], AbstractContextManager[Server]]) -> None:
        self._running = running
        self._directory = TemporaryDirectory(prefix="pushq-tests-")
        self.address = f"{self._directory.name}/server"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.address)
        self._listening.listen(64)
        self._thread = threading.Thread(target=self._answer_all, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server, if it was started."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self._directory.cleanup()

    def _answer_all(self) -> None:
        with ExitStack() as running, suppress(OSError):  # of `accept`, where nobody may ask any more
            answer = None
            while True:
                asking, _ = self._listening.accept()
                answer = answer or self._start(running)
                with asking, suppress(OSError):
                    asking.sendall(json.dumps(answer).encode())

    def _start(self, running: ExitStack) -> dict[str, str]:
        try:
            return asdict(running.enter_context(self._running()))
        except PushqError as error:
            return {"error": str(error)}


def server_at(address: str) -> Server:
    """The server that is asked for there. Raises UsageError where there is none to start."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(address)
        with asking.makefile() as answered:
            answer = json.loads(answered.read())
    if "error" in answer:
        raise UsageError(answer["error"])
    return Server(**answer)


@contextmanager
def running_server() -> Iterator[Server]:
    run = f"pushq_test_{uuid4().hex[:8]}"
    if given := os.environ.get("PUSHQ_TEST_DATABASE_URL"):
        server = Server(given, str(find_binaries().directory), run)
        yield server
        asyncio.run(server.drop_everything())
    else:
        with embedded(_SETTINGS) as started:
            yield Server(started.url(), str(started.bin_directory), run)


@contextmanager
def oldest_server() -> Iterator[Server]:
    """A server of the oldest PostgreSQL, with the programs of the newest for its clients."""
    with embedded(_SETTINGS, oldest.binaries()) as started:
        yield Server(started.url(), str(find_binaries().directory), f"pushq_test_{uuid4().hex[:8]}")


@contextmanager
def embedded(settings: Mapping[str, str], binaries: Binaries | None = None) -> Iterator[EmbeddedServer]:
    """With its files in memory, if there is room: else a quarter of a run's time goes to files that come and go."""
    server, before = EmbeddedServer(settings=settings, binaries=binaries), tempfile.tempdir
    with ExitStack() as running:
        try:
            if _has_room_in_memory():
                tempfile.tempdir = str(_MEMORY)
            running.enter_context(server)
        finally:
            tempfile.tempdir = before
        yield server


_MEMORY = Path("/dev/shm")
_ROOM = 8 * 2**30
"""Bytes. A whole run leaves fewer than three."""


def _has_room_in_memory() -> bool:
    try:
        told = Path("/proc/meminfo").read_text()
        may_run_programs = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
    except OSError:
        return False
    available = int(re.findall(r"MemAvailable: +(\d+) kB", told)[0]) * 1024
    return may_run_programs and min(available, shutil.disk_usage(_MEMORY).free) > _ROOM


SERVERS = {"server": running_server, "oldest": oldest_server}
