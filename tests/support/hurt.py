"""A server of a test's own, to be hurt."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer
from tests.support.jobs import Connection
from tests.support.server import embedded


@asynccontextmanager
async def a_server_to_hurt(**settings: str) -> AsyncIterator[tuple[EmbeddedServer, Connection]]:
    """A server with PostgreSQL's `settings` and pushq's schema, and an onlooker's connection to it."""
    with embedded(settings) as server:
        await migrate(server.url())
        connection = await asyncpg.connect(server.url())
        try:
            yield server, connection
        finally:
            thaw(server)
            connection.terminate()


def freeze(server: EmbeddedServer) -> None:
    """The postmaster and its backends stop, as on a host that hangs."""
    _signal(server, signal.SIGSTOP)


def thaw(server: EmbeddedServer) -> None:
    _signal(server, signal.SIGCONT)


def _signal(server: EmbeddedServer, number: signal.Signals) -> None:
    """To each process, since backends lead process groups of their own; to the postmaster first, which makes them."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        os.kill(server.process.pid, number)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        for pid in map(int, children):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
