"""Serves /metrics, /healthz and /readyz."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from ipaddress import ip_address

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

Metrics = Callable[[str], Awaitable[tuple[Sequence[bytes], str]]]
"""From a request's Accept header to an exposition, in pieces, and the content type."""
Readiness = Callable[[], str | None]
"""Why the process is not ready, or None when ready."""

MOST_CONNECTIONS = 100
"""With one more, the oldest connection is closed: slow clients must not take every file that a process may open."""
LONGEST_CONNECTION = 30.0
"""Seconds. A scraper that keeps a connection open must then open another."""


def application(metrics: Metrics, not_ready: Readiness, token: str | None, listening: socket.socket) -> Starlette:
    """The application that `serve` serves on `listening`. Beyond this machine, /metrics needs a token."""
    is_in_the_open = not ip_address(listening.getsockname()[0]).is_loopback

    async def serve_metrics(request: Request) -> Response:
        if is_in_the_open and not token:
            return PlainTextResponse("Beyond this machine /metrics needs a token: set PUSHQ_HTTP_TOKEN.\n", 403)
        if token and not _has_token(request, token):
            return PlainTextResponse(
                "The token is missing or wrong: send 'Authorization: Bearer TOKEN'.\n",
                401,
                headers={"WWW-Authenticate": "Bearer"},
            )
        pieces, content_type = await metrics(request.headers.get("accept", ""))
        return StreamingResponse(_one_by_one(pieces), media_type=content_type)

    async def serve_health(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def serve_readiness(_: Request) -> Response:
        reason = not_ready()
        return PlainTextResponse(f"{reason}\n", 503) if reason else PlainTextResponse("ready\n")

    return Starlette(
        routes=[
            Route("/metrics", serve_metrics),
            Route("/healthz", serve_health),
            Route("/readyz", serve_readiness),
        ]
    )


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Copies no more for a client than the client reads."""
    for piece in pieces:
        yield piece


def _has_token(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "").encode("latin-1")  # the bytes as sent
    return secrets.compare_digest(given, f"Bearer {token}".encode())


class _Server(uvicorn.Server):
    """A server without uvicorn's handlers of SIGINT and SIGTERM, which sleeps until a client comes."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Waits to be cancelled. uvicorn's own loop wakes ten times a second, to know the date."""
        await anyio.sleep_forever()


class _Connection(H11Protocol):
    """A client's connection. Bounded in number and time, whatever clients do.

    uvicorn's own limits answer a new client with 503, or bound idle connections only.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.ends_at = self.loop.call_later(LONGEST_CONNECTION, transport.abort)
        others = [one for one in self.connections if isinstance(one, _Connection) and not one.transport.is_closing()]
        if len(others) > MOST_CONNECTIONS:
            min(others, key=lambda one: one.ends_at.when()).transport.abort()

    def data_received(self, data: bytes) -> None:
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends_at.cancel()
        super().connection_lost(exc)


async def serve(listening: socket.socket, app: Starlette) -> None:
    """Serves until cancelled."""
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        backlog=MOST_CONNECTIONS,  # accepted at a time
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # warnings tell of malformed requests, in another format
    await _Server(config).serve(sockets=[listening])
