"""Shows the attempts of a pool, when somebody sends the supervisor SIGUSR1.

A thread apart answers, since a handler may block the event loop. No job pays for the roster: waiting attempts are known
anyway, and a running attempt is found among the frames of the thread.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from pushq.events import PoolShown, WorkerShown, publish
from pushq.pool.attempt import Attempt
from pushq.pool.attempts import Attempts
from pushq.pool.batch import BatchAttempt
from pushq.trace import Place, stack

_CALLS_HANDLERS = {kind.__code__ for one in (Attempt, BatchAttempt) for kind in (one.run, one.call)}


@dataclass(frozen=True, slots=True)
class _Running:
    attempt: Attempt
    places: list[Place]


class Roster:
    """attempts: None while the tasks are imported."""

    def __init__(self) -> None:
        self.attempts: Attempts | None = None

    def answer(self, asked: socket.socket) -> None:
        """Shows the workers for each byte that comes, and sends a byte back, until the other end is closed."""
        threading.Thread(target=self._answer, args=(asked,), name="roster", daemon=True).start()

    def _answer(self, asked: socket.socket) -> None:
        with suppress(OSError):
            while asked.recv(1):
                self._show()
                asked.send(b".")

    def _show(self) -> None:
        if self.attempts is None:
            main = sys._current_frames()[threading.main_thread().ident or 0]  # noqa: SLF001
            publish(PoolShown(busy=0, traceback=stack(list(_frames(main))[::-1])))
            return
        running = sorted(_running(self.attempts), key=lambda one: one.attempt.began)
        publish(PoolShown(busy=len(running)))
        for one in running:
            job, seconds = one.attempt.job, monotonic() - one.attempt.began
            batch = len(one.attempt.jobs) if one.attempt.task.batch else None
            publish(WorkerShown(job.id, job.task, job.queue, job.attempt, seconds, stack(one.places), batch))


def _running(attempts: Attempts) -> list[_Running]:
    found = {
        attempt: _Running(attempt, list(_places_of_waiting(task.get_coro())) if task else [])
        for attempt, task in attempts.under_way()
    }
    for frame in sys._current_frames().values():  # noqa: SLF001
        if one := _running_in(frame):
            found[one.attempt] = one
    return list(found.values())


def _running_in(innermost: FrameType) -> _Running | None:
    """The attempt that a thread is carrying out, if any. In its first step, an attempt is found only here."""
    places: list[Place] = []
    for frame, line in _frames(innermost):
        if frame.f_code in _CALLS_HANDLERS:
            return _Running(frame.f_locals["self"], places[::-1])
        places.append((frame, line))
    return None


def _frames(innermost: FrameType) -> Iterator[Place]:
    frame: FrameType | None = innermost
    while frame:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _places_of_waiting(awaited: Any) -> Iterator[Place]:
    """Walks down the coroutines of a handler: each waits for the next."""
    while True:
        match awaited:
            case CoroutineType():
                frame, awaited = awaited.cr_frame, awaited.cr_await
            case GeneratorType():
                frame, awaited = awaited.gi_frame, awaited.gi_yieldfrom
            case AsyncGeneratorType():
                frame, awaited = awaited.ag_frame, awaited.ag_await
            case _:
                return
        if frame:
            yield frame, frame.f_lineno
