"""How fast artifacts are written and read: the pool's own writer, and the reader of producers, in pieces of 1 MiB.

The limit is a bare driver: the same bytes, in rows of 1 MiB, into a table without an index, and out of it again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import anyio

from pushq.artifacts import LARGEST_PIECE, Limits, NewArtifact, keepers
from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_less_than
from pushq.bench.run import Run
from pushq.database.session import Session
from pushq.errors import PushqError
from pushq.pool.artifacts import SETTINGS, ArtifactKeeper
from pushq.reading import find, pieces_of

PIECES, PIECES_LONG = 64, 256
AT_ONCE = 4
"""Artifacts that a pool writes at once."""
MB = 1e6
WRITTEN_MB, READ_MB = 80, 140
NO_LIMITS = Limits(2**40, 100_000, 2**50)

BARE = """
create table pushq.bench_bare (place int, data bytea);
alter table pushq.bench_bare alter column data set storage external
"""


async def measure_artifacts(run: Run) -> None:
    """Writes and reads one artifact, and several at once, by turns with the bare driver."""
    stage = "deliver, artifacts"
    if run.restore(stage):
        return
    pieces = max(4, run.scope.jobs(PIECES_LONG if run.scope.is_long else PIECES))
    async with _ground(run) as ground:
        await ground.measured(2)  # opens connections, fills caches
        async for _ in run.rounds(stage):
            written, read, together, bare_written, bare_read = await ground.measured(pieces)
            _note(run, "artifacts, written", written, bare_written, WRITTEN_MB)
            _note(run, "artifacts, read", read, bare_read, READ_MB)
            _note(run, f"artifacts, {AT_ONCE} written at once", together, bare_written)


def _note(run: Run, name: str, rate: float, bare: float, least: float | None = None) -> None:
    target = None if least is None else no_less_than(least)
    run.add(Measure("deliver", name, "MB/s", "bare asyncpg", target), rate, bare)


@dataclass(frozen=True, slots=True)
class _Ground:
    """A job that is held, the connections of its writer and its reader, and of the bare driver."""

    fence: tuple[UUID, UUID]
    reader: Session
    bare: Connection

    async def measured(self, pieces: int) -> list[float]:
        """MB/s: written, read, written at once, and both by the bare driver."""
        size = pieces * LARGEST_PIECE

        async def write_all() -> None:
            async with anyio.create_task_group() as group:
                for number in range(AT_ONCE):
                    group.start_soon(self._write, f"{number}", pieces // AT_ONCE)

        rates = [
            await _rate(size, lambda: self._write("one", pieces)),
            await _rate(size, lambda: self._read("one", size)),
            await _rate(pieces // AT_ONCE * AT_ONCE * LARGEST_PIECE, write_all),
            await _rate(size, lambda: self._write_bare(pieces)),
            await _rate(size, lambda: self._read_bare(pieces)),
        ]
        # A new claim may write the names again.
        await self.bare.execute("delete from pushq.artifacts; truncate pushq.artifact_pieces, pushq.bench_bare")
        return rates

    async def _write(self, name: str, pieces: int) -> None:
        data = bytes(LARGEST_PIECE)
        async with NewArtifact(self.fence, name, "application/octet-stream") as file:
            for _ in range(pieces):
                await file.write(data)

    async def _read(self, name: str, size: int) -> None:
        read = 0
        async for piece in pieces_of(self.reader, await find(self.reader, self.fence[0], name)):
            read += len(piece)
        if read != size:
            raise PushqError(f"Of {size} bytes {read} were read.")

    async def _write_bare(self, pieces: int) -> None:
        data = bytes(LARGEST_PIECE)
        for place in range(pieces):
            await self.bare.execute("insert into pushq.bench_bare values ($1, $2)", place, data)

    async def _read_bare(self, pieces: int) -> None:
        for place in range(pieces):
            await self.bare.fetchval("select data from pushq.bench_bare where place = $1", place)


async def _rate(size: int, act: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await act()
    return size / MB / (time.perf_counter() - began)


@asynccontextmanager
async def _ground(run: Run) -> AsyncIterator[_Ground]:
    async with run.ground.database() as url, connected(url, SETTINGS) as bare:
        job = await bare.fetchval("insert into pushq.jobs (task) values ('bench.files') returning id")
        fence = job, await bare.fetchval("select pushq.take($1, 'bench', '1 day')", job)
        await bare.execute(BARE)
        writer = Session(url, "pushq bench: artifacts", settings=SETTINGS)
        reader = Session(url, "pushq bench: reads artifacts")
        keeper = keepers[fence] = ArtifactKeeper(writer, NO_LIMITS)
        try:
            async with anyio.create_task_group() as beside:
                beside.start_soon(keeper.run)
                yield _Ground(fence, reader, bare)
                beside.cancel_scope.cancel()
        finally:
            del keepers[fence]
            await writer.close()
            await reader.close()
