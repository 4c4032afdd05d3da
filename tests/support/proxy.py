"""Something in between that a connection leads through, and that can be slow or fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit


class Proxy:
    """Passes bytes on, both ways, until it falls silent. A connection through it then looks well, and is dead.

    delay: seconds that they are under way.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_silent = False
        self.delay = 0.0
        self._links = set[_Link]()

    @property
    def connections(self) -> int:
        """How many clients hold their end open."""
        return len(self._links)

    def silence_connections(self) -> None:
        """Those that there are fall silent, as when a firewall has forgotten them. New ones pass."""
        for link in self._links:
            link.is_silent = True

    def leave_half_open(self) -> None:
        """The server loses those that there are, and the clients are not told. New ones pass."""
        for link in self._links:
            link.is_silent = link.is_half_open = True
            link.server.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, server_url: str) -> None:
        server_reader, server_writer = await _connect(server_url)
        link = _Link(writer, server_writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._pass_up(reader, link), self._pass_down(server_reader, link))
        finally:
            link.abort()
            self._links.discard(link)

    async def abort(self) -> None:
        """Ends all connections, also those of whoever comes meanwhile."""
        while self._links:
            link = self._links.pop()
            link.abort()  # which ends those who read from it, too
            for writer in (link.client, link.server):
                with suppress(ConnectionError):
                    await writer.wait_closed()

    async def _pass_up(self, reader: asyncio.StreamReader, link: _Link) -> None:
        await self._pass_on(reader, link.server, link)
        link.server.close()

    async def _pass_down(self, reader: asyncio.StreamReader, link: _Link) -> None:
        await self._pass_on(reader, link.client, link)
        if not link.is_half_open:
            link.client.close()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, link: _Link) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if not (self.is_silent or link.is_silent):
                    target.write(data)
                    await target.drain()


class _Link:
    """One connection's two ends."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.is_silent = False
        self.is_half_open = False

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server of `url`, and a URL that leads through it."""
    with TemporaryDirectory() as directory:
        database = urlsplit(url).path
        user = urlsplit(url).username or ""
        proxy = Proxy(f"postgresql://{user}@{database}?host={directory}&port=5432")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await proxy.serve(reader, writer, server_url=url)

        server = await asyncio.start_unix_server(serve, Path(directory) / ".s.PGSQL.5432")
        try:
            yield proxy
        finally:
            server.close()
            await proxy.abort()


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "localhost"])[0]
    port = int(parse_qs(parts.query).get("port", [parts.port or 5432])[0])
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)
