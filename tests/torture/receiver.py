"""The receiver of webhooks: one HTTP server, in the torture's process, which in a storm answers as receivers do."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import anyio
from anyio.abc import ByteStream

from tests.support.receivers import Request, answers, receiving
from tests.torture.connections import connected
from tests.torture.history import Arrival, Webhook
from tests.torture.schedule import TOLD

PATIENT, GONE = "/told", "/gone"
"""Where the webhooks of the queue are told; the second answers 410 from some time on."""
GOES_AFTER = 10
"""Arrivals."""
HANGS_FOR = 20.0
"""Seconds: longer than a delivery waits."""

_SUBSCRIBE = """
    insert into pushq.webhooks (queue, statuses, url)
    values ($1, '{queued,running,succeeded,failed,cancelled}', $2)
    returning id::text"""
_PAUSED = "select id::text from pushq.webhooks where paused_at is not null"


class Receiver:
    """is_storm: it fails and hangs at times. arrivals: in their order. told: the webhook that is never gone."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"{seed} receiver")
        self._paths: dict[str, str] = {}
        self._calm = anyio.Event()
        self._at_gone = 0
        self.base = ""
        self.arrivals: list[Arrival] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with receiving(self._answer) as server:
            self.base = f"http://127.0.0.1:{server.port}"
            yield

    async def subscribe(self, url: str) -> None:
        async with connected(url) as connection:
            for path in (PATIENT, GONE):
                self._paths[await connection.fetchval(_SUBSCRIBE, TOLD, self.base + path)] = path

    @property
    def told(self) -> str:
        """The webhook that is never gone."""
        return next(webhook for webhook, path in self._paths.items() if path == PATIENT)

    async def webhooks(self, url: str) -> tuple[Webhook, ...]:
        """How they stand now."""
        async with connected(url) as connection:
            paused = {row[0] for row in await connection.fetch(_PAUSED)}
        return tuple(Webhook(webhook, path, webhook in paused) for webhook, path in self._paths.items())

    def be_kind(self) -> None:
        """From now on nothing fails, and what hangs is cut."""
        self._calm.set()

    async def _answer(self, request: Request, stream: ByteStream) -> None:
        path, status = request.line.split()[1], self._status()
        if path == GONE:
            self._at_gone += 1
            status = 410 if self._at_gone > GOES_AFTER else 200
        told = request.json
        self.arrivals.append(
            Arrival(
                UUID(request.headers["webhook-id"]),
                UUID(told["data"]["id"]),
                told["type"].removeprefix("job."),
                path,
                time.monotonic(),
                status,
            )
        )
        if status == 0:
            with anyio.move_on_after(HANGS_FOR):
                await self._calm.wait()
        elif status > 1:
            await answers(status)(request, stream)

    def _status(self) -> int:
        """0: it hangs; 1: the connection is closed."""
        if self._calm.is_set():
            return 204
        return self._chance.choices((200, 500, 1, 0), (90, 6, 3, 1))[0]
