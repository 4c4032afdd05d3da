"""Turns NOTIFY into rings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from uuid import uuid4

import anyio

from pushq.database.patience import reconnect_delay
from pushq.database.session import Session
from pushq.errors import DatabaseAway, DatabaseTrouble
from pushq.events import BellDown, BellUp, NotificationReceived, publish
from pushq.pool.doorbell import Doorbell
from pushq.pool.store import Store

CHANNEL = "pushq"
LOST = "The listening connection was lost."
SWALLOWED = (
    "notifications do not come back over this connection; polling. Behind a transaction pooler, give a direct "
    "connection in PUSHQ_LISTEN_DATABASE_URL, or set PUSHQ_WAKE=poll."
)
FULL = (
    "the server's notification queue is half full, so INSERTs do not ring; polling. Some session listens and does not "
    "read: look in pg_stat_activity for a session that is idle in transaction or waits for ClientWrite."
)


class Deaf(Exception):
    """The connection looks well, but notifications do not arrive. The message says why."""


class Listener:
    """Listens on a session of its own, never in a transaction.

    A connection may look well, but be dead, or lead through a pooler that swallows notifications. So every `interval`
    seconds another connection sends a canary, on a channel of this listener alone. (From the same connection, even a
    pooler delivers.) If the canary does not arrive within `patience` seconds, the listener connects anew. So push is
    back within `interval` plus `patience` plus the time to connect.

    others: further channels, each with what is called with a payload.
    """

    def __init__(
        self,
        session: Session,
        sender: Store,
        doorbell: Doorbell,
        queues: Sequence[str],
        others: Mapping[str, Callable[[str], None]] | None = None,
        *,
        interval: float = 15.0,
        patience: float = 3.0,
    ) -> None:
        self._session = session
        self._sender = sender
        self._doorbell = doorbell
        self._others = others or {}
        self._interval = interval
        self._patience = patience
        self._served = frozenset(queues) | {""}  # an empty payload is for every pool: gates were shut
        self._canary_channel = f"pushq_canary_{uuid4().hex}"
        self._canary_heard = anyio.Event()
        self._lost = anyio.Event()
        self._has_complained = False

    async def run(self) -> None:
        """Listens until cancelled."""
        failures = count(1)
        while True:
            try:
                await self._listen()
                failures = count(1)
                await self._keep_hearing()
            except DatabaseTrouble as error:
                self._is_deaf(str(error))
                await anyio.sleep(reconnect_delay(next(failures)).total_seconds())
            except Deaf as deafness:
                has_worked = self._doorbell.hears
                self._is_deaf(str(deafness))
                # A connection that has died is replaced soon. If even the first canary is lost, there is no hurry.
                await anyio.sleep(reconnect_delay(1).total_seconds() if has_worked else self._interval)
            finally:
                self._session.discard()

    async def _listen(self) -> None:
        self._lost = anyio.Event()
        await self._session.listen(
            {CHANNEL: self._hear, **self._others, self._canary_channel: self._hear_canary},
            lost=partial(self._lose, self._lost),
        )
        await self._send_canary()
        self._doorbell.hears = True
        self._doorbell.note_interruption()
        publish(BellUp())
        # Rings even after a short loss: notifications sent meanwhile are gone, and only a claim finds their jobs.
        self._doorbell.ring()

    async def _keep_hearing(self) -> None:
        while True:
            with anyio.move_on_after(self._interval):
                await self._lost.wait()
                raise DatabaseAway(LOST)
            await self._send_canary()

    async def _send_canary(self) -> None:
        self._canary_heard = anyio.Event()
        if not await self._sender.send_canary(self._canary_channel):
            raise Deaf(FULL)
        with anyio.move_on_after(self._patience):
            await self._canary_heard.wait()
        if self._lost.is_set():
            raise DatabaseAway(LOST)
        if not self._canary_heard.is_set():  # a handler may block the loop past the deadline
            raise Deaf(SWALLOWED)

    def _hear(self, queue: str) -> None:
        publish(NotificationReceived())
        if not queue:
            self._doorbell.note_interruption()
        if queue in self._served:
            self._doorbell.ring()

    def _hear_canary(self, _: str) -> None:
        self._canary_heard.set()

    def _lose(self, lost: anyio.Event) -> None:
        lost.set()
        if lost is self._lost:  # else the listener itself has discarded that connection
            self._canary_heard.set()  # ends the wait for the canary

    def _is_deaf(self, reason: str) -> None:
        has_heard, self._doorbell.hears = self._doorbell.hears, False
        if has_heard or not self._has_complained:
            publish(BellDown(reason))
        self._has_complained = True
        self._doorbell.ring()  # wakes the sleeper, to poll from now on
