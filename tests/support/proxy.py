"""Something in between that a connection leads through, and that can fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit


class Proxy:
    """Passes bytes on, both ways, until it falls silent. A connection through it then looks well, and is dead."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_silent = False

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                if not self.is_silent:
                    target.write(data)
                    await target.drain()
        target.close()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server of `url`, and a URL that leads through it."""
    with TemporaryDirectory() as directory:
        database = urlsplit(url).path
        user = urlsplit(url).username or ""
        proxy = Proxy(f"postgresql://{user}@{database}?host={directory}&port=5432")
        writers = set[asyncio.StreamWriter]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.add(writer)
            server_reader, server_writer = await _connect(url)
            writers.add(server_writer)
            await asyncio.gather(proxy._pass_on(reader, server_writer), proxy._pass_on(server_reader, writer))

        server = await asyncio.start_unix_server(serve, Path(directory) / ".s.PGSQL.5432")
        try:
            yield proxy
        finally:
            server.close()
            while writers:  # somebody may have come meanwhile
                writer = writers.pop()
                writer.transport.abort()  # which ends those who read from it, too
                with suppress(ConnectionError):
                    await writer.wait_closed()


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "localhost"])[0]
    port = int(parse_qs(parts.query).get("port", [parts.port or 5432])[0])
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)
