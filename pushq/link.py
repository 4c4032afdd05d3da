"""The line between a supervisor and a pool: JSON, a message a line, over a socket pair.

The supervisor sends the pool's Assignment, once, and then orders: to drain, to register again. The pool sends reports.
When one end is gone, the stream ends, and so does the reader at the other end.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

LONGEST_MESSAGE = 16 * 1024 * 1024
"""Bytes."""
DUMP_STACKS = signal.SIGRTMIN + 3
"""The signal that has a pool write the stacks of its threads to standard error, when it answers nothing else.

A signal that nobody sends to a process group: its handler, faulthandler's, reads frames while they change, and kills a
pool that is at work once in some thousand times.
"""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The work of a pool. Sent over the line, because URLs hold passwords. Durations in seconds.

    tasks: MODULE:TASKS. queues: None for `default` and the queues of the tasks. A solo pool runs only jobs that have
    killed two processes, one at a time, and ends when none is due. webhook_allow: networks to which webhooks may be
    sent though they are not public; None: the pool delivers no webhooks, but runs the tasks.
    """

    supervisor: str
    pool: int
    tasks: str
    url: str | None
    listen_url: str | None
    queues: tuple[str, ...] | None
    concurrency: int
    poll_interval: float
    wake: str
    log_format: str
    log_level: str
    log_errors: str
    artifact_bytes: int
    artifacts_per_job: int
    artifact_bytes_per_day: int
    solo: bool = False
    webhook_allow: tuple[str, ...] | None = None

    @property
    def delivers(self) -> bool:
        """Whether the pool delivers webhooks."""
        return self.webhook_allow is not None


@dataclass(frozen=True, slots=True)
class Ready:
    """The pool knows its tasks and queues, and begins.

    connections: to the database, at most, but for artifacts, and for outcomes that the database has rolled back.
    """

    tasks: tuple[str, ...]
    queues: tuple[str, ...]
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Unable:
    """The pool cannot begin. sentence: for the user. may_pass: another pool may be able to begin."""

    sentence: str
    may_pass: bool = False


@dataclass(slots=True)
class Figures:
    """A pool's figures, counted since the pool began.

    hears: whether notifications arrive; None: not known yet. trouble: why the pool does not claim now, or None.
    released: jobs that went back to the queue in a drain.
    """

    busy: int = 0
    workers: int = 0
    wakeups: dict[str, int] = field(default_factory=dict)
    notifications: int = 0
    hears: bool | None = None
    has_claimed: bool = False
    trouble: str | None = None
    released: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The pool has ended in good order. A process that ends without Done has died, whatever the exit code."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Claim no more. Running jobs have `seconds` left."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RegisterAgain:
    """Register again, and claim now: the lease had run out, and the supervisor may have been declared dead."""


@dataclass(frozen=True, slots=True)
class SchedulesChanged:
    """The pool has heard that a schedule has changed. A supervisor has no connection that listens."""


_MESSAGES = {
    kind.__name__: kind for kind in (Assignment, Ready, Unable, Figures, Done, Drain, RegisterAgain, SchedulesChanged)
}
Message = Assignment | Ready | Unable | Figures | Done | Drain | RegisterAgain | SchedulesChanged


class Link:
    """One end of the line."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._received = BufferedByteReceiveStream(stream)
        self._turn = anyio.Lock()

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        # Not as a UNIX socket: anyio may end such a wait twice if a cancellation meets an arriving message.
        return cls(await SocketStream.from_socket(end))

    async def send(self, message: Message) -> None:
        """Sends a message. Raises anyio.BrokenResourceError or ClosedResourceError when the other end is gone."""
        async with self._turn:  # an order to drain may come while the assignment is on its way
            await self._stream.send(_line(message))

    async def receive(self) -> Message:
        """The next message. Raises EOFError when the other end is gone, or sends anything else."""
        try:
            line = await self._received.receive_until(b"\n", LONGEST_MESSAGE)
            return _message(line)
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.DelimiterNotFound) as error:
            raise EOFError from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise EOFError from error  # a handler may write anything into any file descriptor

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            try:
                message = await self.receive()
            except EOFError:
                return
            yield message

    async def aclose(self) -> None:
        await self._stream.aclose()


def receive_first(end: socket.socket) -> Message:
    """The first message, for a process without an event loop yet. Reads nothing of later messages."""
    with end.makefile("rb", buffering=0) as file:
        return _message(file.readline(LONGEST_MESSAGE))


def send_last(end: socket.socket, message: Message) -> None:
    """Sends a message from a process that starts no event loop."""
    with suppress(OSError):  # the other end is gone
        end.sendall(_line(message))


def _line(message: Message) -> bytes:
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def _message(line: bytes) -> Message:
    kind, values = json.loads(line)
    return _MESSAGES[kind](**{name: _tuple(value) for name, value in values.items()})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
