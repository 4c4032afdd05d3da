"""The limit of a pick-up: a process with the least that a pool could do. `python -m pushq.bench.bare_pool`

The process hears a raw NOTIFY, claims by one round trip of claim.sql, and stamps. Nothing is decoded, and there is no
gate. The URL comes on standard input; the end of the input stops the process. Standard output says when it listens.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pushq.bench.bare import Rows, claim_arguments, finish_arguments
from pushq.bench.connection import Connection, connected, session_settings
from pushq.database.statements import statement

CHANNEL = "bench"
WORKERS = 10
"""Jobs a claim, at most."""
READY = b"ready\n"


@contextmanager
def listening(url: str) -> Iterator[None]:
    """Runs the process for the length of the block. Blocks until the process listens to CHANNEL."""
    with subprocess.Popen(
        [sys.executable, "-m", "pushq.bench.bare_pool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches the parent alone; the closed pipe ends the process
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{url}\n".encode())
            process.stdin.flush()
            process.stdout.readline()
            yield
        finally:
            process.stdin.close()
            process.wait(10)


async def run(url: str) -> None:
    """Hears, claims and stamps until standard input ends."""
    ring, rung = anyio.create_memory_object_stream[None](float("inf"))
    async with (
        connected(url) as listens,
        connected(url, session_settings(is_durable=False)) as claims,
        connected(url, session_settings(is_durable=True)) as outcomes,
        anyio.create_task_group() as group,
    ):
        send, receive = anyio.create_memory_object_stream[tuple[Rows, float]](float("inf"))
        group.start_soon(_claim, claims, rung, send)
        group.start_soon(_finish, outcomes, receive)
        await listens.add_listener(CHANNEL, lambda *_: ring.send_nowait(None))
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        await to_thread.run_sync(sys.stdin.read)
        group.cancel_scope.cancel()


async def _claim(
    claims: Connection, rung: MemoryObjectReceiveStream[None], stamped: MemoryObjectSendStream[tuple[Rows, float]]
) -> None:
    async for _ in rung:
        if rows := await claims.fetch(statement("claim"), *claim_arguments(WORKERS)):
            stamped.send_nowait((rows, time.monotonic()))


async def _finish(outcomes: Connection, stamped: MemoryObjectReceiveStream[tuple[Rows, float]]) -> None:
    """The stamp is the result, as the handler bench.stamp returns it."""
    async for rows, stamp in stamped:
        await outcomes.fetch(statement("finish"), *finish_arguments(rows, json.dumps(stamp)))


if __name__ == "__main__":
    anyio.run(run, sys.stdin.readline().strip())
