"""Tells systemd the state of the supervisor: sd_notify(3), a datagram."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import anyio


async def feed_watchdog(interval: float) -> None:
    """Tells systemd every `interval` seconds that the loop turns.

    The database plays no part: an outage is waited out.
    """
    while True:
        tell_systemd("WATCHDOG=1")
        await anyio.sleep(interval)


def tell_systemd(state: str) -> None:
    """Sends a state, for example READY=1. Does nothing unless systemd listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.setblocking(False)
        to.sendto(state.encode(), address)
