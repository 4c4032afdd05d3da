"""Writes what handlers write of artifacts: one piece after the other, on a connection of their own.

The connection is opened for the first piece, and closed when nobody has written for a minute. A piece waits for the
disk only together with the end of its artifact. While the database is away, a piece waits for 15 seconds; then the
handler is told. A statement that is repeated after a lost reply does nothing twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import UUID

import anyio

from pushq.artifacts import Draft, Fence, Limits
from pushq.database.patience import is_rejection, reconnect_delay
from pushq.database.session import Session
from pushq.errors import ArtifactRefused, DatabaseTrouble, PushqError, ValueRefused
from pushq.pool.store import Store

PATIENCE = 15.0
"""Seconds for which a piece waits while the database is away."""
LINGER = 60.0
"""Seconds for which the connection outlives the last piece."""
SETTINGS = {"synchronous_commit": "off"}
"""Of the session: complete_artifact.sql waits for the disk."""


@dataclass(eq=False, slots=True)
class _Wish:
    """What a handler asks for. ask: returns None if the job is no longer held. until: the end of the patience."""

    name: str
    job: UUID
    ask: Callable[[], Awaitable[Any]]
    done: Future[Any] = field(default_factory=Future)
    failures: int = 0
    until: float | None = None

    def answer(self, value: object) -> None:
        with suppress(InvalidStateError):  # the handler waits no more
            self.done.set_result(value)

    def refuse(self, error: Exception) -> None:
        with suppress(InvalidStateError):
            self.done.set_exception(error)


class ArtifactKeeper:
    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._store = Store(session)
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._wishes = deque[_Wish]()
        self._stirred = asyncio.Event()
        self._has_ended = False

    async def run(self) -> None:
        """Writes until cancelled. Then handlers that still wait are refused."""
        try:
            while True:
                with anyio.move_on_after(LINGER) as lingering:
                    await self._stirred.wait()
                if lingering.cancelled_caught:
                    await self._session.close()
                    await self._stirred.wait()
                self._stirred.clear()
                while self._wishes:
                    await self._grant(self._wishes.popleft())
        finally:
            self._has_ended = True
            for wish in self._wishes:
                wish.refuse(_ended(wish))

    def begin(self, fence: Fence, name: str, content_type: str) -> Future[UUID]:
        return self._wish(fence, name, lambda: self._store.begin_artifact(fence, name, content_type, self._limits.most))

    def append(self, draft: Draft, place: int, data: bytes) -> Future[None]:
        its_id = draft.id
        assert its_id
        fence, limits = draft.fence, self._limits
        return self._wish(
            fence,
            draft.name,
            lambda: self._store.append_artifact(its_id, fence, place, data, limits.largest, limits.daily),
        )

    def complete(self, draft: Draft) -> Future[None]:
        its_id = draft.id
        assert its_id
        fence, size, digest = draft.fence, draft.size, draft.hash.digest()
        return self._wish(fence, draft.name, lambda: self._store.complete_artifact(its_id, fence, size, digest))

    def discard(self, draft: Draft) -> None:
        its_id = draft.id
        assert its_id
        fence = draft.fence
        self._wish(fence, draft.name, lambda: self._store.discard_artifact(its_id, fence))

    def _wish(self, fence: Fence, name: str, ask: Callable[[], Awaitable[Any]]) -> Future[Any]:
        wish = _Wish(name, fence[0], ask)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._put, wish)
            return wish.done
        raise _ended(wish)

    def _put(self, wish: _Wish) -> None:
        if self._has_ended:
            wish.refuse(_ended(wish))
            return
        self._wishes.append(wish)
        self._stirred.set()

    async def _grant(self, wish: _Wish) -> None:
        if wish.done.cancelled():
            return
        try:
            value = await wish.ask()
        except ValueRefused as error:
            wish.refuse(ArtifactRefused(f"Job {wish.job}: {error}."))
        except DatabaseTrouble as error:
            self._try_again(wish, error)
        except BaseException:
            wish.refuse(_ended(wish))
            raise
        else:
            if value is None:
                reason = f"job {wish.job} is no longer held by this attempt"
                wish.refuse(ArtifactRefused(f"The artifact {wish.name!r} was not written: {reason}."))
            else:
                wish.answer(value)

    def _try_again(self, wish: _Wish, error: DatabaseTrouble) -> None:
        wish.failures += 1
        wish.until = wish.until or monotonic() + PATIENCE
        delay = reconnect_delay(wish.failures).total_seconds()
        if is_rejection(error) or monotonic() + delay > wish.until:
            sentence = f"The artifact {wish.name!r} of job {wish.job} was not written: {error}"
            wish.refuse(type(error)(sentence, error.state))
        else:
            self._loop.call_later(delay, self._put, wish)


def _ended(wish: _Wish) -> PushqError:
    return PushqError(f"The artifact {wish.name!r} of job {wish.job} was not written: the pool has ended.")
