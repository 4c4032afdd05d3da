"""A host's way to the database: TCP in, the server's socket out, and faults in between.

A connection can be delayed, held up, cut, left half-open (the server's end is gone and the client is not told), have
the reply to its next statement swallowed, so that the client cannot know whether it was carried out, or lose the next
statement itself, which looks the same to the client. The last two befall the connections of a purpose, which is how
their application_name ends: a pool claims on one, and writes outcomes on another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_GONE = (ConnectionError, OSError)


class Proxy:
    """swallows and loses: of which purposes replies do not arrive that report a statement as carried out, and of which
    statements; a connection that loses one is cut. "" stands for all.

    Its counters say what the faults did: chunks delayed and held; replies swallowed and statements lost, by purpose.
    """

    def __init__(self, server_socket: Path) -> None:
        self._server_socket = server_socket
        self._links = set[_Link]()
        self._may_flow = asyncio.Event()
        self._may_flow.set()
        self.port = 0
        self.delay = 0.0
        self.swallows = set[str]()
        self.loses = set[str]()
        self.delayed = 0
        self.held = 0
        self.swallowed = Counter[str]()
        self.lost = Counter[str]()
        self.discarded = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.let_flow()
            while self._links:
                self.cut()
                await asyncio.sleep(0.01)

    @property
    def links(self) -> int:
        """Connections that are open."""
        return len(self._links)

    def serves(self, *purposes: str) -> bool:
        """Whether there is a connection for each."""
        return all(any(link.purpose.endswith(purpose) for link in self._links) for purpose in purposes)

    def cut(self) -> int:
        """Resets every connection; how many."""
        links = list(self._links)
        for link in links:
            link.abort()
        return len(links)

    def hold(self) -> None:
        """Nothing passes any more, in either direction, until it may flow; connections look well meanwhile."""
        self._may_flow.clear()

    def let_flow(self) -> None:
        self._may_flow.set()

    def leave_half_open(self) -> int:
        """The server sees its end closed; the client is not told. How many."""
        links = [link for link in self._links if not link.is_half_open]
        for link in links:
            link.is_half_open = True
            link.server.transport.abort()
        return len(links)

    def cut_half_open(self) -> None:
        for link in list(self._links):
            if link.is_half_open:
                link.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._server_socket)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._pass_up(reader, link), self._pass_down(server_reader, link))
        finally:
            link.abort()
            self._links.discard(link)

    async def _pass_up(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with suppress(*_GONE):
            while data := await reader.read(65536):
                await self._wait_passage()
                if link.is_half_open:
                    self.discarded += len(data)
                    continue
                if (purpose := link.is_for(self.loses)) is not None:
                    self.lost[purpose] += 1
                    break
                link.purpose = link.purpose or _purpose(data)
                link.server.write(data)
                await link.server.drain()
        link.abort()

    async def _pass_down(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with suppress(*_GONE):
            while data := await reader.read(65536):
                await self._wait_passage()
                completions = link.replies.completions(data)
                if completions and (purpose := link.is_for(self.swallows)) is not None:
                    self.swallowed[purpose] += completions
                    link.abort()
                    return
                link.client.write(data)
                await link.client.drain()
        if not link.is_half_open:
            link.abort()

    async def _wait_passage(self) -> None:
        if not self._may_flow.is_set():
            self.held += 1
            await self._may_flow.wait()
        if self.delay:
            self.delayed += 1
            await asyncio.sleep(self.delay)


class _Link:
    """One connection's two ends. purpose: its application_name, once that was said."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.replies = _Replies()
        self.purpose = ""
        self.is_half_open = False

    def is_for(self, purposes: set[str]) -> str | None:
        """For which of these it is; what a connection says first passes."""
        return next(filter(self.purpose.endswith, purposes), None) if self.purpose else None

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


def _purpose(startup: bytes) -> str:
    """The application_name in a client's first message: eight bytes, then names and values, each ended by a zero.
    Without one it is a question mark."""
    said = startup[8:].split(b"\0")
    return dict(zip(said[::2], said[1::2], strict=False)).get(b"application_name", b"?").decode(errors="replace")


class _Replies:
    """What a server says, as far as it matters. A message is a letter, its length in four bytes, and the rest."""

    def __init__(self) -> None:
        self._rest = b""

    def completions(self, data: bytes) -> int:
        """How many statements that changed something it reports as carried out."""
        self._rest += data
        count = 0
        while len(self._rest) >= 5:
            end = 1 + int.from_bytes(self._rest[1:5], "big")
            if len(self._rest) < end:
                break
            count += _reports_a_change(self._rest[:end])
            self._rest = self._rest[end:]
        return count


def _reports_a_change(message: bytes) -> bool:
    """Whether it is a CommandComplete of COMMIT, or of a statement that touched a row."""
    if message[:1] != b"C":
        return False
    words = message[5:].rstrip(b"\0").split()
    return words == [b"COMMIT"] or (len(words) > 1 and words[-1] != b"0")
