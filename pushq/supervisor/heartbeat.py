"""A supervisor's heartbeat renews its lease. While the lease lasts, the pools' claims hold."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Awaitable, Callable

import anyio

from pushq.database.patience import wait_out
from pushq.errors import DatabaseTrouble
from pushq.events import LeaseLapsed, publish
from pushq.supervisor.store import Store


def new_name() -> str:
    """A supervisor's name, new at every start."""
    return f"{socket.gethostname()[:100]}-{os.getpid()}-{secrets.token_hex(3)}"


class Heartbeat:
    """interval and lease in seconds. workers: how many the supervisor's ordinary pools have together.

    `revived` is called when a heartbeat has revived, or may have revived, the lease.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        interval: float,
        lease: float,
        workers: int,
        revived: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._name = name
        self._interval = interval
        self._lease = lease
        self._workers = workers
        self._revived = revived
        self.trouble: str | None = None
        """Why the database did not take the last heartbeat. When the lease runs out, no pool may claim."""
        self._unanswered = 0  # heartbeats in a row without a reply; any of them may have revived the lease

    async def begin(self) -> None:
        await self._beat()

    async def run(self) -> None:
        while True:
            await anyio.sleep(self._interval)
            # Tries are at most an interval apart: when the database is back, the lease must not run out in a pause.
            had_lapsed = await wait_out(self._beat, longest=self._interval)
            if had_lapsed:
                publish(LeaseLapsed(self._name))
            if had_lapsed or self._unanswered:
                await self._revived()
            self._unanswered = 0

    async def _beat(self) -> bool:
        """Sends a heartbeat. Returns whether the lease had run out before."""
        self._unanswered += 1
        try:
            had_lapsed = await self._store.heartbeat(
                self._name, socket.gethostname(), os.getpid(), self._lease, self._workers
            )
        except DatabaseTrouble as error:
            self.trouble = str(error)
            raise
        self.trouble = None
        self._unanswered -= 1
        return had_lapsed
