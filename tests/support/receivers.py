"""Receivers of webhooks: HTTP servers on a loopback address, each with a way of answering."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Request, ByteStream], Awaitable[None]]


@dataclass
class Receiver:
    """`requests`: those received so far. `connections`: how many were taken. `most_open`: how many at once, at most."""

    host: str
    port: int
    answer: Answer
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    _came: anyio.Condition = field(default_factory=anyio.Condition)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hook"

    async def wait_for(self, count: int, within: float = 20) -> list[Request]:
        """The requests, as soon as there are so many."""
        with anyio.fail_after(within):
            async with self._came:
                while len(self.requests) < count:
                    await self._came.wait()
        return self.requests

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async with stream:
                with suppress(anyio.BrokenResourceError, anyio.IncompleteRead, anyio.EndOfStream, OSError):
                    request = await _request(stream)
                    self.requests.append(request)
                    async with self._came:
                        self._came.notify_all()
                    await self.answer(request, stream)
        except (anyio.BrokenResourceError, OSError):  # as the stream is closed
            pass
        finally:
            self.open -= 1


async def _request(stream: ByteStream) -> Request:
    reader = BufferedByteReceiveStream(stream)
    head = (await reader.receive_until(b"\r\n\r\n", 65536)).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    length = int(headers.get("content-length", 0))
    return Request(head[0], headers, await reader.receive_exactly(length) if length else b"")


def answers(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Answers with a status. Underscores in the names of headers stand for hyphens."""

    async def answer(_: Request, stream: ByteStream) -> None:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, f"content-length: {len(body)}", "", ""])
        await stream.send(head.encode() + body)

    return answer


def sends(*parts: bytes, again: bytes | None = None, pause: float = 0.0) -> Answer:
    """Sends the parts, and then, if given, one more again and again, each after a pause."""

    async def answer(_: Request, stream: ByteStream) -> None:
        for part in parts:
            await stream.send(part)
        while again is not None:
            await anyio.sleep(pause)
            await stream.send(again)

    return answer


async def hangs(_: Request, stream: ByteStream) -> None:
    """Never answers: waits until the other side has gone."""
    await stream.receive()


@asynccontextmanager
async def receiving(
    answer: Answer | None = None, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    plain = await anyio.create_tcp_listener(local_host=host)
    receiver = Receiver(host, plain.extra(SocketAttribute.local_port), answer or answers(200))
    listener: Listener[Any] = TLSListener(plain, tls, standard_compatible=False) if tls else plain
    async with listener, anyio.create_task_group() as serving:
        serving.start_soon(listener.serve, receiver.serve)
        yield receiver
        serving.cancel_scope.cancel()


@dataclass(frozen=True)
class Authority:
    """A certification authority of the tests' own."""

    folder: Path

    @classmethod
    def made_in(cls, folder: Path) -> Authority:
        _openssl(folder, "req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA")
        return cls(folder)

    def server(self, name: str) -> ssl.SSLContext:
        """A server's context, with a certificate for the name."""
        (self.folder / "names").write_text(f"subjectAltName=DNS:{name}")
        _openssl(self.folder, "req", *_NEW_KEY, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={name}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
        _openssl(self.folder, "x509", "-req", "-in", "server.csr", "-out", "server.pem", *signing)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context

    @property
    def client(self) -> ssl.SSLContext:
        """The context of a client that trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
