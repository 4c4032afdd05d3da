"""A driver's process, as the benchmark talks to it: JSON lines. driver.py says which commands there are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from subprocess import PIPE
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from pushq.bench.machine import cpu_seconds
from pushq.errors import PushqError

SECONDS_TO_ANSWER = 180.0
SECONDS_TO_END = 15.0
LONGEST_ANSWER = 1024 * 1024
"""Bytes."""


class Program:
    """A driver that runs a command."""

    def __init__(self, process: Process, name: str) -> None:
        assert process.stdout
        self._process = process
        self._name = name
        self._answers = BufferedByteReceiveStream(process.stdout)

    async def answer(self) -> dict[str, Any]:
        """The next answer. Raises PushqError if none comes."""
        with anyio.move_on_after(SECONDS_TO_ANSWER):
            try:
                line = await self._answers.receive_until(b"\n", LONGEST_ANSWER)
            except (anyio.EndOfStream, anyio.IncompleteRead):
                raise self._ended() from None
            return dict(json.loads(line))
        raise PushqError(f"The benchmark's program for {self._name} did not answer in {SECONDS_TO_ANSWER:g} s.")

    async def tell(self) -> None:
        """Sends the line that the program waits for."""
        assert self._process.stdin
        await self._process.stdin.send(b"\n")

    async def end(self) -> None:
        """Ends the program's input, and waits for its end."""
        assert self._process.stdin
        with anyio.move_on_after(SECONDS_TO_END):
            await self._process.stdin.aclose()
            await self._process.wait()

    def cpu_seconds(self) -> float:
        """Seconds of CPU of the program and of all that it has started."""
        return cpu_seconds(self._process.pid)

    def check_alive(self) -> None:
        """Raises PushqError if the program has ended by itself."""
        if self._process.returncode is not None:
            raise self._ended()

    def _ended(self) -> PushqError:
        return PushqError(f"The benchmark's program for {self._name} ended; its errors are above.")


@asynccontextmanager
async def running(command: Sequence[str], name: str) -> AsyncIterator[Program]:
    """Runs a driver for the length of the block. A driver also ends with us: its input ends then."""
    process = await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=None, start_new_session=True)
    program = Program(process, name)
    try:
        yield program
    finally:
        with anyio.CancelScope(shield=True):
            await program.end()
            if process.returncode is None:
                process.kill()
            await process.aclose()
