"""Waits for the ends of jobs: woken by a notification, and by a look every few seconds.

Theory of operation. All waits of an event loop at one database share two connections: one listens, the other asks. The
channel has a random name, written into each job's row by `pushq.watch`. The row's lock closes the race with the end of
the job: if no unfinished row is found, the job has ended, and its row is looked at. A pool tells after the end is
committed. If the message is lost (the pool died, the connection was lost, the server's queue was half full), the next
look finds the end. A look is one statement for all waits.

A job whose row is locked, or at fault, is not watched for the time being, and found by looking: `Pieces` keeps the job
from harming the others. A wait that is given up takes its wish back before the call returns.

Behind a transaction pooler, nothing is heard, and looks are more frequent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias, cast
from uuid import UUID, uuid4

import anyio

from pushq.database.patience import reconnect_delay
from pushq.database.session import Session
from pushq.database.url import normalise
from pushq.errors import (
    DatabaseTrouble,
    JobUnknown,
    KeyTaken,
    PushqError,
    ResultError,
    StatementRolledBack,
    UnexpectedState,
    WaitTimeout,
)
from pushq.job import Status
from pushq.settings import Settings
from pushq.waiting.pieces import WRONG, Pieces
from pushq.waiting.runs import Lane, Wish
from pushq.waiting.store import Store

Row: TypeAlias = Mapping[str, Any]
"""A row of ends.sql."""
Future: TypeAlias = asyncio.Future[Row]
Asked: TypeAlias = asyncio.Future[Row | None]

LOOK = 5.0
"""Seconds between two looks at all jobs that are waited for."""
LOOK_DEAF = 0.5
"""The same, where no notification is heard."""
LINGER = 10.0
"""Seconds for which the connections outlive the last wait."""
PATIENCE = "30ms"
"""How long a statement of all waits stands at the lock of one row, or of the table."""
GRACE = 0.4
"""Seconds for which a wait that has timed out takes its wish back, and asks what the job is doing."""
GRACE_CANCELLED = 1.0
"""The same for a wait that is cancelled."""


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
        self._waits: dict[UUID, set[Future]] = {}
        self._new = set[UUID]()
        self._told = set[UUID]()
        self._left = set[UUID]()
        self._asked: dict[UUID, list[Asked]] = {}
        self._leaving: list[asyncio.Future[None]] = []
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_deaf = True
        self._has_worked = False
        self._has_missed = False
        self._has_watched = False
        self._has_looked = False
        self._asks = Session(url, "pushq waits: asks", settings={"lock_timeout": PATIENCE})
        self._store = Store(self._asks)
        self._watches = Pieces(self._watch, is_certain=False)
        self._unwatches = Pieces(self._unwatch, is_certain=True)
        self._lanes = (Lane(url), Lane(url))

    async def wait(self, job_id: UUID, timeout: float | None = None) -> Ended:  # noqa: ASYNC109 - as asyncio.wait_for has it
        """Returns when the job is finished. timeout: seconds.

        Raises JobUnknown, WaitTimeout, ResultError, and DatabaseTrouble if the database cannot be asked at the first
        try.
        """
        return _ended(await self.end_of(job_id, timeout))

    async def end_of(self, job_id: UUID, timeout: float | None = None) -> Row:  # noqa: ASYNC109
        """The same as wait, with the row as it is stored: the result is JSON text."""
        seconds = seconds_of(timeout)
        if not isinstance(job_id, UUID):
            raise TypeError(f"A job's id is a UUID, not a {type(job_id).__name__}: UUID('…').")
        try:
            return await self._end_of(job_id, seconds, seconds)
        except PushqError as error:
            raise _with(error, job_id) from error.__cause__

    async def run(self, columns: Sequence[list[object]], timeout: float | None) -> Ended:  # noqa: ASYNC109
        """Inserts a job, as columns of insert_with_needs.sql, and waits. Raises like wait, and KeyTaken."""
        seconds = seconds_of(timeout)
        began = asyncio.get_running_loop().time()
        row = [column[0] for column in columns]
        wish = Wish(row, id=cast("UUID | None", row[0]))
        await self._insert(wish, seconds)
        job_id = wish.done.result()
        try:
            left = None if seconds is None else began + seconds - asyncio.get_running_loop().time()
            return _ended(await self._end_of(job_id, left, seconds))
        except WaitTimeout as error:
            raise _with(error, job_id) from None
        except ResultError:
            raise
        except PushqError as error:
            raise _with(error, job_id, f" Job {job_id} was inserted all the same.") from error.__cause__

    async def _insert(self, wish: Wish, seconds: float | None) -> None:
        """Inserts a job. Where a job has a key, another session may hold the key for long: hence the second lane."""
        has_key = wish.id is not None or wish.row[_UNIQUE_KEY] is not None
        self._lanes[has_key].add(wish)
        try:
            async with asyncio.timeout(seconds):
                await wish.done
        except TimeoutError:
            if not wish.done.cancelled():
                return
            raise _with(WaitTimeout(_not_inserted(wish, seconds)), wish.id if wish.is_sent else None) from None
        except KeyTaken:
            raise
        except PushqError as error:
            own = _with(error, wish.id, _UNCERTAIN.format(wish.id)) if wish.is_sent else _with(error, None)
            raise own from error.__cause__

    async def _end_of(self, job_id: UUID, left: float | None, seconds: float | None) -> Row:
        """left: seconds from now. seconds: of the whole call, for the sentence."""
        future: Future = asyncio.get_running_loop().create_future()
        self._waits.setdefault(job_id, set()).add(future)
        self._new.add(job_id)
        self._stir()
        try:
            async with asyncio.timeout(left):
                return await future
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()
            is_told, row = await self._last_look(job_id, future)
            if row and Status(row["status"]).is_finished:  # and the message was lost, or the row could not be watched
                return row
            raise WaitTimeout(_given_up(job_id, seconds, row, is_told=is_told)) from None
        except asyncio.CancelledError:
            await self._leave(job_id, future, GRACE_CANCELLED)
            raise
        finally:
            self._forget(job_id, future)

    async def _last_look(self, job_id: UUID, future: Future) -> tuple[bool, Row | None]:
        """Takes the wish back. Whether the database has told of the job in time, and the job's row."""
        asked: Asked = asyncio.get_running_loop().create_future()
        if self._task:
            self._asked.setdefault(job_id, []).append(asked)
        await self._leave(job_id, future, GRACE)
        return (True, asked.result()) if asked.done() else (False, None)

    async def _leave(self, job_id: UUID, future: Future, seconds: float) -> None:
        """Waits until the wish is taken back. Where nobody serves, there is none, or all are taken back."""
        self._forget(job_id, future)
        if not self._task:
            return
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving.append(gone)
        self._stir()
        with anyio.move_on_after(seconds, shield=True):
            await gone

    def _forget(self, job_id: UUID, future: Future) -> None:
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
        hears = Session(self._listen_url, "pushq waits: listens")
        failures, self._has_worked = 0, False
        try:
            while True:
                try:
                    if not await self._serve_connected(hears):
                        return
                    failures = 0
                except DatabaseTrouble as error:
                    hears.discard()
                    if not self._has_worked or error.state.startswith(WRONG):
                        self._fail(error)
                        return
                    failures += 1
                    await asyncio.sleep(reconnect_delay(failures).total_seconds())
        except Exception as error:  # told to those who wait, whatever the kind
            if not self._waits:
                raise
            self._fail(error)
        except BaseException as error:  # the loop is about to end
            watched = self._left | self._waits.keys()
            self._fail(error)
            await self._take_back(watched)
            raise
        finally:
            self._task = None  # before the first await: who comes now needs another task
            self._release(self._leaving)
            await self._asks.close()
            await hears.close()

    async def _serve_connected(self, hears: Session) -> bool:
        """Serves until the connection is lost. Returns False if there has been no wait for a while."""
        lost, loop = asyncio.Event(), asyncio.get_running_loop()

        def lose() -> None:
            lost.set()
            self._stirred.set()

        await hears.listen({self._channel: self._hear}, lost=lose)
        self._is_deaf = hears.is_pooled
        self._watches.forget()
        self._new.update(self._waits)
        looked = loop.time()
        while not lost.is_set():
            self._stirred.clear()
            await self._attend()
            self._has_worked = True
            try:
                async with asyncio.timeout_at(looked + self._pause() if self._waits else loop.time() + LINGER):
                    await self._stirred.wait()
            except TimeoutError:
                if not self._waits:
                    return False
            if loop.time() >= looked + self._pause():
                self._watches.retry()
                self._unwatches.retry()
                self._has_missed = False
                await self._look(self._waits)
                looked = loop.time()
        return True

    def _pause(self) -> float:
        return LOOK_DEAF if self._is_deaf or self._has_missed or self._watches.are_due_soon else LOOK

    async def _attend(self) -> None:
        """Watches new jobs, looks at what was told, and takes back the wishes of those that wait no more."""
        leaving, self._leaving = self._leaving, []
        try:
            new, self._new = self._new, set()
            self._watches.add(new & self._waits.keys())
            await self._watches.work(self._waits.__contains__)
            told, self._told = self._told, set()
            if not self._has_looked:  # at the first time at all, so that a missing right is told at once
                told |= new
            if told := told & self._waits.keys() | self._asked.keys():
                await self._look(told)
            left, self._left = self._left, set()
            self._unwatches.add(left)
            await self._unwatches.work(lambda job_id: job_id not in self._waits)
            if self._watches.are_due or self._unwatches.are_due:
                self._stirred.set()
        finally:
            self._release(leaving)

    async def _watch(self, job_ids: Collection[UUID]) -> None:
        """What is not watched has ended, or has no room: to be looked at."""
        self._has_watched = True
        watched = await self._store.watch(job_ids, self._channel)
        self._told |= set(job_ids) - watched
        self._has_worked = True

    async def _unwatch(self, job_ids: Collection[UUID]) -> None:
        await self._store.unwatch(job_ids, self._channel)

    async def _take_back(self, job_ids: set[UUID]) -> None:
        """At the end of the loop, within a second."""
        if job_ids and self._has_watched:
            with anyio.move_on_after(GRACE_CANCELLED), suppress(DatabaseTrouble):
                self._unwatches.add(job_ids)
                while self._unwatches.are_due:
                    await self._unwatches.work(lambda _: True)

    @staticmethod
    def _release(leaving: list[asyncio.Future[None]]) -> None:
        for gone in leaving:
            if not gone.done():
                gone.set_result(None)

    async def _look(self, job_ids: Iterable[UUID]) -> None:
        """Looks at jobs. A look that meets a lock is repeated soon; a row at fault ends its own waits."""
        job_ids, asked, self._asked = list(job_ids), self._asked, {}
        pieces = [job_ids] if job_ids else []
        while pieces:
            piece = pieces.pop()
            try:
                self._see(piece, await self._store.ends(piece), asked)
                self._has_looked = True
            except UnexpectedState as error:
                if error.state.startswith(WRONG) or not error.state:
                    raise
                if error.is_timeout:
                    self._has_missed = True
                elif half := len(piece) // 2:
                    pieces += [piece[half:], piece[:half]]
                else:
                    self._settle(piece[0], error)
            except StatementRolledBack:
                self._has_missed = True

    def _see(self, job_ids: list[UUID], rows: Mapping[UUID, Row], asked: Mapping[UUID, list[Asked]]) -> None:
        for job_id in job_ids:
            row = rows.get(job_id)
            if row is None:
                self._settle(job_id, JobUnknown(_UNKNOWN.format(job_id)))
            elif Status(row["status"]).is_finished:
                self._settle(job_id, row)
            for one in asked.get(job_id, ()):
                if not one.done():
                    one.set_result(row)

    def _settle(self, job_id: UUID, end: Row | PushqError) -> None:
        for future in self._waits.pop(job_id, ()):
            if not future.done():
                future.set_exception(end) if isinstance(end, PushqError) else future.set_result(end)

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


def seconds_of(timeout: object) -> float | None:
    """A timeout as a number of seconds. None: no limit. Raises TypeError and ValueError for what is none."""
    if timeout is None:
        return None
    remedy = "give a number of seconds over 0, or None to wait for ever."
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout={timeout!r} is of type {type(timeout).__name__}: {remedy}")
    if not timeout > 0:
        raise ValueError(f"timeout={timeout!r} is no time to wait: {remedy}")
    return float(timeout) if timeout < _FOR_EVER else None


_FOR_EVER = 1e9


def _with(error: PushqError, job_id: UUID | None, more: str = "") -> PushqError:
    """A copy of an error, which may be that of several waits, that names the job."""
    own = copy(error)
    own.args = (f"{error}{more}",)
    own.job_id = job_id
    return own


_UNIQUE_KEY = 8
"""The place of the column in insert.sql."""
_UNCERTAIN = " Whether job {} was inserted is unknown."


def _not_inserted(wish: Wish, seconds: float | None) -> str:
    if wish.is_sent:
        return (
            f"Job {wish.id} was not finished within {seconds:g} s, and whether the job was inserted is unknown: the "
            "database has not answered the INSERT. Ask for the job by its id."
        )
    return f"Nothing was inserted within {seconds:g} s, and nothing will be: the database has not taken the INSERT."


_UNKNOWN = (
    "There is no job {}: nobody has inserted one with this id, the INSERT is not committed, the job was "
    "deleted, its queue keeps finished jobs no longer, or this login may not see it."
)


def _ended(row: Row) -> Ended:
    """Where a result that cannot be decoded harms no other wait. Raises ResultError."""
    try:
        result = None if row["result"] is None else json.loads(row["result"])
    except (ValueError, RecursionError) as error:
        raise _with(
            ResultError(
                f"Job {row['id']} has {row['status']}, but Python cannot decode the result: {error}. Read the column "
                "result as text, or let the handler return long numbers as strings."
            ),
            row["id"],
        ) from None
    return Ended(row["id"], row["task"], row["queue"], Status(row["status"]), result, row["error"], row["attempt"])


def _given_up(job_id: UUID, seconds: float | None, row: Row | None, *, is_told: bool) -> str:
    waited = f"Job {job_id} was not finished within {seconds:g} s"
    if not is_told:
        return f"{waited}. The database has not told in time what the job is doing."
    return f"{waited}: {_doing(row)}." if row else f"{waited}, and is gone."


def _doing(row: Row) -> str:
    if row["status"] == Status.RUNNING:
        return f"it has been running for {row['running']:.1f} s, in attempt {row['attempt']}"
    due = "is due" if row["due_in"] <= 0 else f"is due in {row['due_in']:.0f} s"
    return f"it is queued in {row['queue']!r}, and {due}"


_HERE: dict[asyncio.AbstractEventLoop, dict[str | None, Waiting]] = {}


def waiting_here(url: str | None = None) -> Waiting:
    """The waits of this event loop at a database. url: None is that of the settings.

    Raises SettingsError for a URL that cannot be used, and TypeError for what is no str.
    """
    for loop in [loop for loop in _HERE if loop.is_closed()]:
        del _HERE[loop]
    here = _HERE.setdefault(asyncio.get_running_loop(), {})
    if url is not None and not isinstance(url, str):  # never shown: there may be a password
        raise TypeError(
            f"url is a str, 'postgresql://…', or None for the database of the settings, not a {type(url).__name__}."
        )
    if url not in here:
        if url is not None:
            normalise(url)
            here[url] = Waiting(url, url)
        else:
            settings = Settings.load()
            here[url] = Waiting(settings.url, settings.listen_url)
    return here[url]
