"""The INSERTs of runs: those of an event loop share two connections, and one statement where they come together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pushq.database.session import Session
from pushq.errors import DatabaseRefused, DatabaseTrouble, KeyTaken, StatementRolledBack, UnexpectedState
from pushq.waiting.store import Store

LINGER = 10.0
"""Seconds for which a connection outlives the last INSERT."""
MOST = 500
"""Jobs in a statement."""
PATIENCE = "100ms"
"""How long an INSERT waits for a lock, while others wait for the INSERT."""


@dataclass(eq=False, slots=True)
class Wish:
    """A job to be inserted. row: a value for each column of insert_with_needs.sql. id: None until the server
    has made one.

    is_sent: whether the INSERT is under way, so that nobody knows if the job will be there.
    """

    row: list[object]
    done: asyncio.Future[UUID] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    id: UUID | None = None
    is_sent: bool = False


class Lane:
    """Inserts jobs on one connection, each in a transaction that is the same as if the job were alone.

    A job that the database rolls back hurts only itself: the rest is inserted. A job that meets a lock is tried again
    until nobody waits for it.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._new: list[Wish] = []
        self._pieces = deque[list[Wish]]()
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._has_worked = False
        self._was_new = False

    def add(self, wish: Wish) -> None:
        self._new.append(wish)
        if not self._task:
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="pushq waits: inserts")
        self._stirred.set()

    async def _serve(self) -> None:
        session = Session(self._url, "pushq waits: inserts", settings={"lock_timeout": PATIENCE})
        try:
            while await self._has_more():
                await self._insert(Store(session), self._piece())
        except Exception as error:  # told to those who wait, whatever the kind
            if not self._end(error):
                raise
        except BaseException:
            self._end(None)
            raise
        finally:
            self._task = None  # before the first await: who comes now needs another task
            await session.close()

    async def _has_more(self) -> bool:
        while not (self._new or self._pieces):
            self._stirred.clear()
            try:
                async with asyncio.timeout(LINGER):
                    await self._stirred.wait()
            except TimeoutError:
                return bool(self._new)
        return True

    def _piece(self) -> list[Wish]:
        """The new ones and those that were tried, by turns."""
        self._was_new = bool(self._new) and not (self._was_new and self._pieces)
        if self._was_new:
            piece, self._new = self._new[:MOST], self._new[MOST:]
            return piece
        return self._pieces.popleft()

    async def _insert(self, store: Store, wishes: Collection[Wish]) -> None:
        if not (wishes := [wish for wish in wishes if not wish.done.done()]):
            return
        try:
            await self._name(store, [wish for wish in wishes if wish.id is None])
            if wishes := [wish for wish in wishes if not wish.done.done()]:
                _mark(wishes, is_sent=True)
                _answer(wishes, await store.insert([wish.row for wish in wishes]))
        except (StatementRolledBack, DatabaseRefused) as error:
            _mark(wishes, is_sent=False)
            self._divide(wishes, error)
        except DatabaseTrouble as error:
            _fail(wishes, error)
        except BaseException:
            self._pieces.append(wishes)
            raise

    async def _name(self, store: Store, wishes: Sequence[Wish]) -> None:
        """Gives ids, of the server's clock, before the INSERT: whoever loses the answer knows the job's id.

        Asked even for no ids, so that a connection that was lost meanwhile costs no INSERT.
        """
        try:
            job_ids = await store.new_ids(len(wishes))
        except DatabaseTrouble as error:
            if error.state or not self._has_worked:
                raise
            job_ids = await store.new_ids(len(wishes))
        self._has_worked = True
        for wish, job_id in zip(wishes, job_ids, strict=True):
            wish.row[0] = wish.id = job_id

    def _divide(self, wishes: list[Wish], error: DatabaseTrouble) -> None:
        if not error.state:
            _fail(wishes, error)
        elif half := len(wishes) // 2:
            self._pieces += [wishes[:half], wishes[half:]]
        elif isinstance(error, UnexpectedState | DatabaseRefused):
            _fail(wishes, error)
        else:
            self._pieces.append(wishes)

    def _end(self, error: Exception | None) -> bool:
        """Ends all INSERTs that somebody waits for. Returns False if there is none."""
        left = [*self._new, *(wish for piece in self._pieces for wish in piece)]
        self._new.clear()
        self._pieces.clear()
        left = [wish for wish in left if not wish.done.done()]
        for wish in left:
            wish.done.set_exception(error) if error else wish.done.cancel()
        return bool(left)


def _mark(wishes: Collection[Wish], *, is_sent: bool) -> None:
    for wish in wishes:
        wish.is_sent = is_sent


def _answer(wishes: Collection[Wish], inserted: set[UUID]) -> None:
    for wish in [one for one in wishes if not one.done.done()]:
        if wish.id in inserted:
            inserted.discard(wish.id)  # of two with one id, one is inserted
            wish.done.set_result(wish.id)
        else:
            wish.done.set_exception(KeyTaken("An unfinished job has the same unique_key or id; nothing was inserted."))


def _fail(wishes: Collection[Wish], error: DatabaseTrouble) -> None:
    for wish in [one for one in wishes if not one.done.done()]:
        wish.done.set_exception(error)
