"""The line between a supervisor and a pool: JSON, a message a line, over a socket pair.

Down the line goes the pool's Assignment, once, and then at most one order to drain. Up the line come reports. When the
other end is gone the stream ends, and so does whoever reads it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

LONGEST_MESSAGE = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a pool is to do. Sent over the line, since it holds passwords. Durations in seconds.

    queues is None for `default` and the queues of the tasks. A solo pool runs only jobs that have killed two processes,
    one at a time, and ends when there are none.
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
    solo: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """The pool knows its tasks and queues, and begins."""

    tasks: tuple[str, ...]
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unable:
    """The pool cannot begin: the sentence for the user. may_pass: the next one may be able to."""

    sentence: str
    may_pass: bool = False


@dataclass(slots=True)
class Figures:
    """What a pool tells about itself, counted since it began.

    hears: whether notifications arrive; None: not known yet. trouble: why it does not claim now.
    """

    busy: int = 0
    workers: int = 0
    wakeups: dict[str, int] = field(default_factory=dict)
    notifications: int = 0
    hears: bool | None = None
    has_claimed: bool = False
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The pool has ended as it should. A process that ends without a word has died, whatever its exit code."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Claim no more; running jobs have this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RegisterAgain:
    """Claim now, and register again: the supervisor's lease had run out, and it may have been declared dead."""


_MESSAGES = {kind.__name__: kind for kind in (Assignment, Ready, Unable, Figures, Done, Drain, RegisterAgain)}
Message = Assignment | Ready | Unable | Figures | Done | Drain | RegisterAgain


class Link:
    """One end of the line."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._received = BufferedByteReceiveStream(stream)
        self._turn = anyio.Lock()

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        # As any socket, not as a UNIX one, whose wait anyio may end twice if it is cancelled as something arrives.
        return cls(await SocketStream.from_socket(end))

    async def send(self, message: Message) -> None:
        """Sends a message. Raises anyio.BrokenResourceError or ClosedResourceError when the other end is gone."""
        async with self._turn:  # an order to drain may come while the assignment is on its way
            await self._stream.send(_line(message))

    async def receive(self) -> Message:
        """The next message. Raises EOFError when the other end is gone, or says what is none."""
        try:
            line = await self._received.receive_until(b"\n", LONGEST_MESSAGE)
            return _message(line)
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.DelimiterNotFound) as error:
            raise EOFError from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise EOFError from error  # a handler may write anything into a file that it has not opened

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
    """The first message, before there is an event loop. Nothing is read of those that follow."""
    with end.makefile("rb", buffering=0) as file:
        return _message(file.readline(LONGEST_MESSAGE))


def send_last(end: socket.socket, message: Message) -> None:
    """Where there will be no event loop."""
    with suppress(OSError):  # the other end is gone
        end.sendall(_line(message))


def _line(message: Message) -> bytes:
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def _message(line: bytes) -> Message:
    kind, values = json.loads(line)
    return _MESSAGES[kind](**{name: _tuple(value) for name, value in values.items()})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
