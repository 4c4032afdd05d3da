"""Waits for the ends of jobs: woken by a notification, and by a look every few seconds.

Theory of operation. All waits of an event loop at one database share two connections: one listens, the other asks. The
channel has a random name, written into each job's row by `pushq.watch`. The row's lock closes the race with the end of
the job: if no unfinished row is found, the job has ended, and its row is looked at. A pool tells after the end is
committed. If the message is lost (the pool died, the connection was lost, the server's queue was half full), the next
look finds the end. A look is one statement for all waits.

Behind a transaction pooler, nothing is heard, and looks are more frequent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from pushq.database.patience import reconnect_delay
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.errors import DatabaseTrouble, JobUnknown, KeyTaken, WaitTimeout
from pushq.job import Status
from pushq.settings import Settings
from pushq.waiting.store import Store

Row: TypeAlias = Mapping[str, Any]
"""A row of ends.sql."""

LOOK = 5.0
"""Seconds between two looks at all jobs that are waited for."""
LOOK_DEAF = 0.5
"""The same, where no notification is heard."""
LINGER = 10.0
"""Seconds for which the connections outlive the last wait."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished job. status: succeeded, failed or cancelled. result: decoded. error: of the last attempt, or None.

    attempt: how many there were.
    """

    id: UUID
    task: str
    queue: str
    status: Status
    result: Any
    error: str | None
    attempt: int


class Waiting:
    """The waits of one event loop at one database."""

    def __init__(self, url: str | None, listen_url: str | None) -> None:
        self._url = url
        self._listen_url = listen_url
        self._channel = f"pushq_{uuid4().hex}"
        self._waits: dict[UUID, set[asyncio.Future[Row]]] = {}
        self._new = set[UUID]()
        self._told = set[UUID]()
        self._left = set[UUID]()
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_deaf = True
        self._has_worked = False

    async def wait(self, job_id: UUID, timeout: float | None = None) -> Ended:  # noqa: ASYNC109 - as asyncio.wait_for has it
        """Returns when the job is finished. timeout: seconds.

        Raises JobUnknown, WaitTimeout, and DatabaseTrouble if the database cannot be asked at the first try.
        """
        if not isinstance(job_id, UUID):
            raise TypeError(f"A job's id is a UUID, not a {type(job_id).__name__}: UUID('…').")
        future = asyncio.get_running_loop().create_future()
        self._waits.setdefault(job_id, set()).add(future)
        self._new.add(job_id)
        self._stir()
        try:
            async with asyncio.timeout(timeout):
                row: Row = await future
        except TimeoutError:
            raise WaitTimeout(await self._why(job_id, timeout)) from None
        finally:
            self._forget(job_id, future)
        return _ended(row)  # here, where a result that cannot be decoded harms no other wait

    async def run(self, columns: Sequence[list[object]], timeout: float | None) -> Ended:  # noqa: ASYNC109
        """Inserts a job, as columns of insert.sql, and waits. Raises like wait, and KeyTaken."""
        session = Session(self._url, "pushq waits: inserts")
        try:
            rows = await session.fetch(statement("insert"), *columns)
        finally:
            await session.close()
        if not rows:
            raise KeyTaken("An unfinished job has the same unique_key or id; nothing was inserted.")
        return await self.wait(rows[0]["id"], timeout)

    def _forget(self, job_id: UUID, future: asyncio.Future[Row]) -> None:
        futures = self._waits.get(job_id, set())
        futures.discard(future)
        if not futures and self._waits.pop(job_id, None) is not None and not (future.done() and not future.cancelled()):
            self._left.add(job_id)
            self._stir()

    def _stir(self) -> None:
        if not self._task:
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="pushq waits")
        self._stirred.set()

    # The task -------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Serves all waits, until there has been none for a while. Whatever ends the task ends the waits."""
        asks, hears = Session(self._url, "pushq waits: asks"), Session(self._listen_url, "pushq waits: listens")
        failures, self._has_worked = 0, False
        try:
            while True:
                try:
                    if not await self._serve_connected(Store(asks), hears):
                        return
                    failures = 0
                except DatabaseTrouble as error:
                    hears.discard()
                    if not self._has_worked or error.state.startswith(_WRONG):
                        self._fail(error)
                        return
                    failures += 1
                    await asyncio.sleep(reconnect_delay(failures).total_seconds())
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._task = None  # before the first await: who comes now needs another task
            await asks.close()
            await hears.close()

    async def _serve_connected(self, store: Store, hears: Session) -> bool:
        """Serves until the connection is lost. Returns False if there has been no wait for a while."""
        lost = asyncio.Event()

        def lose() -> None:
            lost.set()
            self._stirred.set()

        await hears.listen({self._channel: self._hear}, lost=lose)
        self._is_deaf = hears.is_pooled
        self._new.update(self._waits)
        while not lost.is_set():
            self._stirred.clear()
            await self._attend(store)
            self._has_worked = True
            try:
                async with asyncio.timeout(self._pause()):
                    await self._stirred.wait()
            except TimeoutError:
                if not self._waits:
                    return False
                await self._look(store, self._waits)
        return True

    def _pause(self) -> float:
        if not self._waits:
            return LINGER
        return LOOK_DEAF if self._is_deaf else LOOK

    async def _attend(self, store: Store) -> None:
        """Watches new jobs, looks at what was told, and takes back the wishes of those that wait no more."""
        new, self._new = self._new & self._waits.keys(), set()
        told, self._told = self._told, set()
        left = self._left - self._waits.keys()
        if new:
            told |= new - await store.watch(new, self._channel)
        if told := told & self._waits.keys():
            await self._look(store, told)
        if left:
            await store.unwatch(left, self._channel)
        self._left -= left | self._waits.keys()

    async def _look(self, store: Store, job_ids: Iterable[UUID]) -> None:
        job_ids = list(job_ids)
        rows = await store.ends(job_ids)
        for job_id in job_ids:
            row = rows.get(job_id)
            if row is None:
                self._settle(job_id, JobUnknown(_UNKNOWN.format(job_id)))
            elif Status(row["status"]).is_finished:
                self._settle(job_id, row)

    def _settle(self, job_id: UUID, end: Row | JobUnknown) -> None:
        for future in self._waits.pop(job_id, ()):
            if not future.done():
                future.set_exception(end) if isinstance(end, JobUnknown) else future.set_result(end)

    def _fail(self, error: BaseException) -> None:
        waits, self._waits = self._waits, {}
        for future in [one for futures in waits.values() for one in futures if not one.done()]:
            if isinstance(error, Exception):
                future.set_exception(error)
            else:  # the loop is about to end
                future.cancel()

    def _hear(self, message: str) -> None:
        job_id = message.partition(" ")[0]
        try:
            self._told.add(UUID(job_id))
        except ValueError:
            return
        self._stirred.set()

    async def _why(self, job_id: UUID, timeout: float | None) -> str:  # noqa: ASYNC109
        """What the job is doing, for a wait that was given up."""
        waited = f"Job {job_id} was not finished within {timeout:g} s"
        session = Session(self._url, "pushq waits: asks", deadline=2.0)
        try:
            row = (await Store(session).ends([job_id])).get(job_id)
        except DatabaseTrouble as error:
            return f"{waited}. {error}"
        finally:
            await session.close()
        return f"{waited}: {_doing(row)}." if row else f"{waited}, and is gone."


_WRONG = "42"
"""What begins the SQLSTATE of a missing right or function: to try again helps nobody."""
_UNKNOWN = (
    "There is no job {}: nobody has inserted one with this id, the INSERT is not committed, the job was "
    "deleted, or this login may not see it."
)


def _ended(row: Row) -> Ended:
    result = None if row["result"] is None else json.loads(row["result"])
    return Ended(row["id"], row["task"], row["queue"], Status(row["status"]), result, row["error"], row["attempt"])


def _doing(row: Row) -> str:
    if row["status"] == Status.RUNNING:
        return f"it has been running for {row['running']:.1f} s, in attempt {row['attempt']}"
    if row["status"] == Status.QUEUED:
        due = "is due" if row["due_in"] <= 0 else f"is due in {row['due_in']:.0f} s"
        return f"it is queued in {row['queue']!r}, and {due}"
    return f"it is {row['status']} by now"


_HERE: dict[asyncio.AbstractEventLoop, dict[str | None, Waiting]] = {}


def waiting_here(url: str | None = None) -> Waiting:
    """The waits of this event loop at a database. url: None is that of the settings."""
    for loop in [loop for loop in _HERE if loop.is_closed()]:
        del _HERE[loop]
    here = _HERE.setdefault(asyncio.get_running_loop(), {})
    if url not in here:
        settings = None if url else Settings.load()
        here[url] = Waiting(url, url) if not settings else Waiting(settings.url, settings.listen_url)
    return here[url]
