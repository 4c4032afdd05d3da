"""The port of /metrics, /healthz and /readyz: bound at the start, served on demand.

The HTTP server is imported when the first client comes: the import takes a fifth of a supervisor's start.
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
from pushq.local.imports import garbage_left

OPENED_AFTER = 5.0
"""Seconds after which the server is imported even without a client.

Later the process may have no file left to open, or a newer version may have been installed over this one.
"""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Port 0: any free port.

    Raises UsageError when the user may not have the port. Raises PushqError when the port is taken, or the host is not
    this machine's: both may pass, as another process ends, or an interface comes up.
    """
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
    """The operating system's message, without Python's additions."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error.strerror).lower()


async def serve_on_demand(
    listening: socket.socket,
    *,
    url: str | None,
    name: str,
    figures: Callable[[], ProcessFigures],
    not_ready: Callable[[], str | None],
    token: str | None,
) -> None:
    """Serves until cancelled. name: of the session for scrapes. not_ready: returns why not, or None when ready."""
    with anyio.move_on_after(OPENED_AFTER):
        await anyio.wait_readable(listening)
    try:
        await run_sync(import_server)  # in a thread, since the loop has pools to hear
    except RuntimeError:  # the system has no thread left
        import_server()
    from pushq.exporter.http import application, serve  # noqa: PLC0415
    from pushq.exporter.metrics import Exposition, session_for_scrapes  # noqa: PLC0415

    session = session_for_scrapes(url, name)
    try:
        await serve(listening, application(Exposition(Store(session), figures), not_ready, token, listening))
    finally:
        session.discard()


def import_server() -> None:
    with garbage_left():
        import pushq.exporter.http  # noqa: PLC0415
        import pushq.exporter.metrics  # noqa: F401, PLC0415
