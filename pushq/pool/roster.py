"""What the workers of a pool are doing, for whoever asks its supervisor by SIGUSR1.

A thread of its own answers, since a handler may block the event loop. No job pays for it: attempts that wait are known
anyway, and one that runs is found in the frames of its thread, where its job is among what it was given.
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
from pushq.job import Job
from pushq.pool.attempt import Attempts
from pushq.trace import Place, stack

_RUNS = {Attempts._run.__code__, Attempts._call.__code__}  # noqa: SLF001
"""Who calls handlers."""


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    began: float
    places: list[Place]


class Roster:
    """`attempts` is None while the tasks are imported."""

    def __init__(self) -> None:
        self.attempts: Attempts | None = None

    def answer(self, asked: socket.socket) -> None:
        """Shows what goes on whenever a byte comes, and sends one back, until the other end is gone."""
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
        running = sorted(_running(self.attempts), key=lambda one: one.began)
        publish(PoolShown(busy=len(running)))
        for one in running:
            job, seconds = one.job, monotonic() - one.began
            publish(WorkerShown(job.id, job.task, job.queue, job.attempt, seconds, stack(one.places)))


def _running(attempts: Attempts) -> list[_Running]:
    waiting = [
        _Running(job, began, list(_places_of_waiting(task.get_coro())) if task else [])
        for job, began, task in attempts.under_way()
    ]
    found = {(one.job.id, one.job.token): one for one in waiting}  # many have a claim, and its token, in common
    for frame in sys._current_frames().values():  # noqa: SLF001
        for one in _running_in(frame):
            key = one.job.id, one.job.token
            found[key] = _Running(one.job, found.get(key, one).began, one.places)
    return list(found.values())


def _running_in(innermost: FrameType) -> Iterator[_Running]:
    """The attempt that a thread is carrying out, if any. In its first step it is not known as one that waits."""
    places: list[Place] = []
    for frame, line in _frames(innermost):
        if frame.f_code in _RUNS:
            yield _Running(frame.f_locals["job"], _began(frame), places[::-1])
            return
        places.append((frame, line))


def _began(run: FrameType) -> float:
    makers = (frame for frame, _ in _frames(run) if frame.f_code is Attempts.make.__code__)
    return next((frame.f_locals["began"] for frame in makers), monotonic())


def _frames(innermost: FrameType) -> Iterator[Place]:
    frame: FrameType | None = innermost
    while frame:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _places_of_waiting(awaited: Any) -> Iterator[Place]:
    """Down the coroutines of a handler, each of which waits for the next."""
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
