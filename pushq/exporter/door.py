"""Where clients of /metrics, /healthz and /readyz knock: bound at the start, opened when the first has come.

To import what serves them takes a fifth of a supervisor's start, and nobody may ever ask.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

import anyio
from anyio.to_thread import run_sync

from pushq.errors import PushqError, UsageError
from pushq.exporter.figures import ProcessFigures
from pushq.exporter.store import Store

OPENED_AFTER = 5.0
"""Seconds, though nobody has come: later there may be no file to be had, or a newer program may have been installed."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError when the port is not for us, PushqError when it is taken, or when the host
    is not ours: whoever has the port may be about to end, and an address may be yet to come."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        remedy = (
            "choose another port with --http-port (0: any free one) or PUSHQ_HTTP_PORT"
            if error.errno in (errno.EADDRINUSE, errno.EACCES)
            else "give an address of this machine with --http-host or PUSHQ_HTTP_HOST"
        )
        kind = UsageError if error.errno == errno.EACCES else PushqError
        raise kind(f"Cannot listen on {host}:{port}: {_reason(error)}; {remedy}.") from None


def _reason(error: OSError) -> str:
    """What the system says, without what Python adds to it."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error.strerror).lower()


async def serve_who_comes(
    listening: socket.socket,
    *,
    url: str | None,
    name: str,
    figures: Callable[[], ProcessFigures],
    not_ready: Callable[[], str | None],
    token: str | None,
) -> None:
    """Serves until it is cancelled. name: of the session for scrapes. not_ready: why; None: we are ready."""
    with anyio.move_on_after(OPENED_AFTER):
        await anyio.wait_readable(listening)
    try:
        await run_sync(import_what_serves)  # in a thread: the loop has pools to hear meanwhile
    except RuntimeError:  # the system has none to give
        import_what_serves()
    from pushq.exporter.http import application, serve  # noqa: PLC0415
    from pushq.exporter.metrics import Exposition, session_for_scrapes  # noqa: PLC0415

    session = session_for_scrapes(url, name)
    try:
        await serve(listening, application(Exposition(Store(session), figures), not_ready, token, listening))
    finally:
        session.discard()


def import_what_serves() -> None:
    import pushq.exporter.http  # noqa: PLC0415
    import pushq.exporter.metrics  # noqa: F401, PLC0415
