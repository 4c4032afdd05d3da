"""Drives a system that is written in Python: a worker, or a producer. driver.mjs does the same for Node.js.

    python driver.py ADAPTER COMMAND URL OPTIONS

ADAPTER is a file of adapters/, OPTIONS a JSON object. The program runs in the system's own virtual environment, which
has no pushq: it imports the standard library alone. It answers in JSON objects, one a line, and ends when its input
ends.

| command | options | answers |
|---|---|---|
| set-up | | {} when the schema is there |
| worker | configuration, tally, jobs | {} when the worker looks for jobs; works on until its input ends |
| burst | count | {} when jobs stand in an open transaction; after a line of input, {"committed"} |
| steady | rate, seconds | {"begun"}: when each job's call began, in the order of the jobs' numbers |
| crowd | clients, seconds | {"enqueued", "seconds"} |
| bulk | count, call | {"seconds"}: of building the jobs, and of the call |

Instants are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Tally:
    """Counts what a worker executes, in a file that the benchmark reads. jobs: how many are expected; 0: none.

    The file says `executed COUNT INSTANT` when all jobs have been executed, and at the end; and `picked NUMBER INSTANT`
    for each job that measures its pick-up.
    """

    def __init__(self, path: str, jobs: int) -> None:
        self.path = path
        self.jobs = jobs
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._executed = 0

    def executed(self) -> None:
        self._executed += 1
        if self._executed >= self.jobs > 0:
            self._write_executed()

    def picked_up(self, number: int) -> None:
        self._write(f"picked {number} {time.monotonic()}")

    def close(self) -> None:
        if self._executed:
            self._write_executed()
        os.close(self._file)

    def _write_executed(self) -> None:
        self._write(f"executed {self._executed} {time.monotonic()}")

    def _write(self, line: str) -> None:
        os.write(self._file, line.encode() + b"\n")


class Producer(Protocol):
    """A system's own client. task: 'noop' counts its execution, 'stamp' notes when it was picked up."""

    async def enqueue(self, task: str, number: int) -> None:
        """Enqueues a job as the system's documentation does, on a connection that no other call uses."""

    async def enqueue_many(self, count: int, call: str | None) -> None:
        """Builds jobs and enqueues them by the fastest call for many. call: the name of the call, if there are two."""

    async def burst(self, count: int) -> Callable[[], Awaitable[None]]:
        """Enqueues jobs in a transaction, with statistics of the tables. Returns what commits."""


class Adapter(Protocol):
    async def set_up(self, url: str) -> None:
        """Installs the schema in an empty database."""

    def working(self, url: str, configuration: Mapping[str, Any], tally: Tally) -> AbstractAsyncContextManager[None]:
        """A worker that looks for jobs, for the length of the block."""

    def producing(self, url: str, clients: int) -> AbstractAsyncContextManager[Producer]:
        """A producer for so many concurrent calls."""


async def main(file: str, command: str, url: str, options: Mapping[str, Any]) -> None:
    adapter = _adapter(file)
    if command == "set-up":
        await adapter.set_up(url)
        answer()
    elif command == "worker":
        await _work(adapter, url, options)
    else:
        async with adapter.producing(url, options.get("clients", 1)) as producer:
            await PRODUCERS[command](producer, options)


def _adapter(file: str) -> Adapter:
    """The adapter in a file, loaded by its path: by name, pgqueuer.py would shadow the package pgqueuer."""
    spec = importlib.util.spec_from_file_location("adapter", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for the module of their class
    spec.loader.exec_module(module)
    return module


async def _work(adapter: Adapter, url: str, options: Mapping[str, Any]) -> None:
    tally = Tally(options["tally"], options["jobs"])
    async with adapter.working(url, options["configuration"], tally):
        answer()
        await told()
    tally.close()


async def _burst(producer: Producer, options: Mapping[str, Any]) -> None:
    commit = await producer.burst(options["count"])
    answer()
    await told()
    await commit()
    answer(committed=time.monotonic())


async def _steady(producer: Producer, options: Mapping[str, Any]) -> None:
    begun: list[float] = []
    start = time.monotonic()
    for number in range(round(options["rate"] * options["seconds"])):
        await asyncio.sleep(max(0.0, start + number / options["rate"] - time.monotonic()))
        begun.append(time.monotonic())
        await producer.enqueue("stamp", number)
    answer(begun=begun)


async def _crowd(producer: Producer, options: Mapping[str, Any]) -> None:
    start = time.monotonic()

    async def enqueue_in_turn() -> int:
        enqueued = 0
        while time.monotonic() < start + options["seconds"]:
            await producer.enqueue("noop", enqueued)
            enqueued += 1
        return enqueued

    enqueued = sum(await asyncio.gather(*[enqueue_in_turn() for _ in range(options["clients"])]))
    answer(enqueued=enqueued, seconds=time.monotonic() - start)


async def _bulk(producer: Producer, options: Mapping[str, Any]) -> None:
    start = time.monotonic()
    await producer.enqueue_many(options["count"], options.get("call"))
    answer(seconds=time.monotonic() - start)


PRODUCERS: dict[str, Callable[[Producer, Mapping[str, Any]], Awaitable[None]]] = {
    "burst": _burst,
    "steady": _steady,
    "crowd": _crowd,
    "bulk": _bulk,
}


def answer(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def told() -> None:
    """Waits for a line of input, or its end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.readline()  # ends at once if what runs beside fails, which a thread would not


if __name__ == "__main__":
    file, command, url, options = sys.argv[1:]
    asyncio.run(main(file, command, url, json.loads(options)))
