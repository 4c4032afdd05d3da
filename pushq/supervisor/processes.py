"""A pool's process as the parent sees it: a fresh interpreter, the line to the pool, and the pool's last report."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import Process

from pushq.events import PoolSilent, publish
from pushq.link import DUMP_STACKS, Assignment, Done, Drain, Figures, Link, Message, Ready, RegisterAgain, Unable
from pushq.settings import SECRETS

_HERE = Path("pushq/supervisor/processes.py")
_IS_CHECKOUT = _HERE.exists() and _HERE.samefile(__file__)
# A pool appends the current directory to its path itself. In the last place, a user's `queue.py` shadows no module of
# Python or of a package. Only in a checkout may pushq itself have to be found in the current directory.
_FLAGS = () if _IS_CHECKOUT else ("-P",)

_OURS_ALONE = {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"} | SECRETS
"""Environment variables kept from pools and from programs that handlers start. A pool gets URLs over the line."""

LINE_LOST_AFTER = 1.0
"""Seconds that a process may outlive its line. Without a line, a pool hears no orders and reports nothing."""
SILENT_AFTER = 2.0
"""Seconds for a pool to say what the workers are doing."""
DEAF_WHILE_IMPORTING = 1.0
"""Seconds from a drain to the kill of a pool that has not begun.

Such a pool is importing the user's modules. The pool hears no orders, and has no jobs.
"""


class PoolProcess:
    """`ready` is None until the pool has begun. `unable` says why the pool cannot begin.

    `heard` is called with each message of the pool.
    """

    def __init__(self, assignment: Assignment, *, heard: Callable[[PoolProcess, Message], None]) -> None:
        self.assignment = assignment
        self.began = anyio.current_time()
        self.figures = Figures()
        self.ready: Ready | None = None
        self.unable: Unable | None = None
        self._was_killed = False
        self._is_done = False
        self._is_unwanted = False
        self._heard = heard
        self._process: Process | None = None
        self._link: Link | None = None
        self._drain: Drain | None = None
        self._line_was_lost = False
        self._told_to_drain = anyio.Event()
        self._asking: socket.socket | None = None
        self._heard_all = anyio.Event()

    @property
    def number(self) -> int:
        return self.assignment.pool

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def has_ended_as_ordered(self) -> bool:
        """Whether the pool was killed, or has drained on order. A pool that ends unasked has died, however quietly.

        A handler may have ended the process, or cancelled the pool's own tasks. Exception: a solo pool ends unasked,
        and reports Done, when no suspect is left.
        """
        return self._was_killed or (self._is_done and (self._drain is not None or self.assignment.solo))

    async def run(self, *, spawned: Callable[[], None]) -> str:
        """Starts the process and waits for the end. Returns how the process ended, in words."""
        try:
            return await self._run(spawned)
        except (OSError, RuntimeError, MemoryError) as error:  # no files, processes, threads or memory left for now
            self.kill()
            self._was_killed = False
            return f"could not be started: {getattr(error, 'strerror', None) or error}"

    async def _run(self, spawned: Callable[[], None]) -> str:
        ours, theirs = socket.socketpair()
        asking, asked = socket.socketpair()
        with ours, theirs, asking, asked:
            line, other = theirs.fileno(), asked.fileno()
            self._process = await anyio.open_process(
                [sys.executable, *_FLAGS, "-m", "pushq.pool_process", str(line), str(os.getpid()), str(other)],
                stdin=None,
                stdout=None,
                stderr=None,
                pass_fds=(line, other),
                env={name: value for name, value in os.environ.items() if name.upper() not in _OURS_ALONE},
            )
            theirs.close()
            asked.close()
            self._asking = asking
            spawned()
            if self._is_unwanted:
                self.kill()
            ours.setblocking(False)
            self._link = link = await Link.over(ours)
            try:
                async with anyio.create_task_group() as around:
                    around.start_soon(self._hear, link)
                    around.start_soon(self._end_unless_begun)
                    await self._say(self.assignment)
                    if self._drain:
                        await self._say(self._drain)
                    code = await self._process.wait()
                    # The last messages may still be on the line, which ends with the process.
                    with anyio.move_on_after(0.5):
                        await self._heard_all.wait()
                    around.cancel_scope.cancel()
            finally:
                self.kill()
                self._link = None
                await link.aclose()
        return self._describe_end(code)

    def _describe_end(self, code: int) -> str:
        if self._line_was_lost and code == -signal.SIGKILL:
            return "its line was cut"
        ended = f"exit {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return f"{ended}, unasked" if self._is_done and not self.has_ended_as_ordered else ended

    async def drain(self, seconds: float) -> None:
        """Tells the pool to claim no more, and to stop its jobs after `seconds`.

        A pool being started is told once it runs.
        """
        self._drain = Drain(seconds)
        self._told_to_drain.set()
        await self._say(self._drain)

    async def _end_unless_begun(self) -> None:
        await self._told_to_drain.wait()
        await anyio.sleep(DEAF_WHILE_IMPORTING)
        if self.ready is None:
            self.kill()

    async def register_again(self) -> None:
        await self._say(RegisterAgain())

    async def show(self) -> None:
        """Tells the pool to log what the workers are doing. A pool that cannot answer is made to dump its stacks."""
        asking, self._asking = self._asking, None  # None: somebody is asking; the answer serves both
        if asking is None or self._process is None:
            return
        if not await _has_answered(asking) and self.ready and self._process.returncode is None:
            publish(PoolSilent(self.number))
            os.kill(self._process.pid, DUMP_STACKS)
        self._asking = asking

    def kill(self) -> None:
        """Kills the process, at once or as soon as it is started. The caller releases the jobs."""
        self._is_unwanted = True
        if self._process and self._process.returncode is None:
            self._was_killed = True
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _say(self, message: Message) -> None:
        if self._link:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self._link.send(message)

    async def _hear(self, link: Link) -> None:
        async for message in link:
            match message:
                case Ready():
                    self.ready = message
                case Unable():
                    self.unable = message
                case Figures():
                    self.figures = message
                case Done():
                    self._is_done = True
                case _:
                    pass
            self._heard(self, message)
        self._heard_all.set()
        if not (self._is_done or self.unable):
            await self._kill_without_line()

    async def _kill_without_line(self) -> None:
        """Kills a pool whose line is lost: a handler may have closed the pool's end, or written into it."""
        await anyio.sleep(LINE_LOST_AFTER)
        self._line_was_lost = True
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()


async def _has_answered(asking: socket.socket) -> bool:
    asking.setblocking(False)
    with suppress(OSError):
        asking.recv(64)  # a late answer to an earlier question
    with suppress(OSError), anyio.move_on_after(SILENT_AFTER):
        asking.send(b"?")
        await anyio.wait_readable(asking)
        return bool(asking.recv(64))
    return False
