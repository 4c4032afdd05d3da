"""Clients that wait for jobs: each listens on a channel, looks at every end that it hears of, and looks at all its jobs
every few seconds, as the documents say. Others call Queue.wait.

Theory of operation. A wait is open from before its channel is in the job's row, so that no end comes too soon for it.
It ends when its client has heard of the end, and has looked. One that finds the end by a look alone stays open until
the next look, for a message that is on its way. Then it says that it has heard nothing; it could have, unless its
connection was new meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import anyio
from anyio.abc import TaskGroup

from pushq import Queue
from pushq.errors import DatabaseTrouble, JobUnknown
from tests.support.waiting import eventually
from tests.torture.connections import AWAY, Connection, connected
from tests.torture.history import Wait

LOOK = 5.0
"""Seconds between two looks."""
_ROWS = """
    select distinct on (job.id) job.id, job.status
    from pushq.jobs as job
    where job.id = any($1)
    order by job.id, job.finished_on desc, job.finished_at desc"""


class Waiters:
    """urls: of the ways to the database, a listener for each; the last is Queue.wait's too."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._listeners = [_Listener(url) for url in urls]
        self._url = urls[-1]
        self._asking = set[Wait]()
        self._ended: list[Wait] = []
        self._group: TaskGroup

    async def run(self) -> None:
        async with anyio.create_task_group() as self._group:
            for listener in self._listeners:
                self._group.start_soon(listener.run)

    def open(self, job: UUID) -> str:
        """The channel to insert a job with."""
        return self._of(job).open(job)

    def settle(self, job: UUID, *, is_inserted: bool) -> None:
        """What became of the insert. A job that may not be there is not waited for."""
        self._of(job).settle(job, is_watched=is_inserted)

    async def watch(self, connection: Connection, job: UUID) -> None:
        """A job that is there already. Where there is nothing to wait for, or no answer, a look must do."""
        listener, is_watched = self._of(job), False
        if listener.waits_for(job):
            return
        channel = listener.open(job)
        try:
            is_watched = await connection.fetchval("select pushq.watch($1, $2)", job, channel)
        finally:
            listener.settle(job, is_watched=True, could_hear=is_watched)

    def ask_queue_soon(self, job: UUID) -> None:
        self._group.start_soon(self.ask_queue, job)

    async def ask_queue(self, job: UUID) -> None:
        """Queue.wait."""
        wait = Wait(job, time.monotonic())
        self._asking.add(wait)
        while True:
            try:
                found: str | None = (await Queue().wait(job, url=self._url)).status
            except JobUnknown:
                found = None
            except DatabaseTrouble:
                await anyio.sleep(0.1)
                continue
            break
        self._asking.discard(wait)
        self._ended.append(replace(wait, ended_at=time.monotonic(), found=found))

    async def wait_ended(self, within: float) -> None:
        """Until nobody waits any more, if that is soon."""

        async def is_over() -> bool:
            return not any(True for _ in self._waiting())

        with suppress(AssertionError):
            await eventually(is_over, within=within)

    @property
    def waits(self) -> tuple[Wait, ...]:
        return (*self._ended, *(one for listener in self._listeners for one in listener.ended), *self._waiting())

    def _waiting(self) -> Iterator[Wait]:
        yield from self._asking
        for listener in self._listeners:
            yield from listener.waiting()

    def _of(self, job: UUID) -> _Listener:
        return self._listeners[job.int % len(self._listeners)]


@dataclass(slots=True)
class _Open:
    """is_sure: the job is there. looks: it is to be looked at soon. found, found_at: what a look has found, before
    anything was heard."""

    job: UUID
    began_at: float
    could_hear: bool
    is_sure: bool = False
    looks: bool = False
    heard: str | None = None
    heard_at: float | None = None
    found: str | None = None
    found_at: float | None = None


class _Listener:
    """One connection, one channel, and the waits on it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._channel = f"pushq_{uuid4().hex}"
        self._open: dict[UUID, _Open] = {}
        self._stirred = asyncio.Event()
        self._listens = False
        self.ended: list[Wait] = []

    def waits_for(self, job: UUID) -> bool:
        return job in self._open

    def open(self, job: UUID) -> str:
        self._open[job] = _Open(job, time.monotonic(), self._listens)
        return self._channel

    def settle(self, job: UUID, *, is_watched: bool, could_hear: bool = True) -> None:
        if (wait := self._open.get(job)) is None:
            return
        wait.is_sure = is_watched
        wait.could_hear &= could_hear
        wait.looks |= not could_hear
        if not is_watched:
            del self._open[job]
        self._stirred.set()

    def waiting(self) -> Iterator[Wait]:
        return (Wait(one.job, one.began_at) for one in self._open.values() if one.is_sure)

    async def run(self) -> None:
        while True:
            with suppress(*AWAY):
                async with connected(self._url, command_timeout=8) as connection:
                    await self._listen(connection)
            self._listens = False
            for wait in self._open.values():
                wait.could_hear = False
            await anyio.sleep(0.1)

    async def _listen(self, connection: Connection) -> None:
        connection.add_termination_listener(lambda _: self._stirred.set())
        await connection.add_listener(self._channel, self._hear)
        self._listens = True
        looks_at = 0.0
        while not connection.is_closed():
            if time.monotonic() >= looks_at:
                await self._look(connection, [job for job, wait in self._open.items() if wait.is_sure])
                looks_at = time.monotonic() + LOOK
            await self._look(connection, [job for job, wait in self._open.items() if wait.is_sure and wait.looks])
            with anyio.move_on_after(looks_at - time.monotonic()):
                await self._stirred.wait()
            self._stirred.clear()

    def _hear(self, *message: object) -> None:
        """The last argument is the payload: the job's id and status."""
        job, _, status = str(message[-1]).partition(" ")
        if (wait := self._open.get(UUID(job))) and not wait.heard:
            wait.heard, wait.heard_at, wait.looks = status, time.monotonic(), True
            self._stirred.set()

    async def _look(self, connection: Connection, jobs: Collection[UUID]) -> None:
        if not jobs:
            return
        rows = {row["id"]: row["status"] for row in await connection.fetch(_ROWS, list(jobs))}
        for job in jobs:
            self._note(self._open[job], rows.get(job))

    def _note(self, wait: _Open, status: str | None) -> None:
        wait.looks = False
        if not wait.heard and not wait.found_at and status not in ("queued", "running"):
            wait.found, wait.found_at = status, time.monotonic()
            if wait.could_hear:
                return
        if wait.heard or wait.found_at:
            self._end(wait, status)

    def _end(self, wait: _Open, status: str | None) -> None:
        del self._open[wait.job]
        ended_at = min(at for at in (wait.heard_at, wait.found_at) if at)
        found = wait.found if wait.found_at else status
        self.ended.append(Wait(wait.job, wait.began_at, ended_at, wait.heard, found, wait.could_hear))
