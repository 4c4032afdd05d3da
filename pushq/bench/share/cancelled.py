"""How soon the handler of a job that was cancelled by hand hears of the cancel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import anyio

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_more_than, percentile
from pushq.bench.run import Run
from pushq.bench.share.ears import BARE, Heard, hearing, notify
from pushq.bench.supervisors import supervising
from pushq.bench.waiting import wait_until

JOBS = 100
"""Jobs that run when the first is cancelled."""
PAUSE = 0.005
"""Seconds between two cancels."""
SECONDS_TO_STOP = 20.0
MIDDLE = Measure("share", "pushq.cancel to CancelledError, p50", "ms", BARE, no_more_than(5))
LATE = Measure("share", "pushq.cancel to CancelledError, p99", "ms", BARE)


async def measure_cancelled(run: Run) -> None:
    """Cancels running jobs one by one, and notifies as often, in turn. Both commits wait for the disk."""
    stage = "share, cancelled"
    if run.restore(stage):
        return
    with TemporaryDirectory() as directory:
        async with run.ground.database() as url, connected(url) as connection, hearing(url) as heard:
            with supervising(url, f"--concurrency={JOBS}", "--shutdown-timeout=0.2") as (supervisor,):
                await supervisor.wait_ready()
                async for one in run.rounds(stage):
                    notes = _Notes(Path(directory, str(one)))
                    took, bare = await _cancelled(connection, heard, notes, min(JOBS, run.scope.jobs(JOBS)))
                    run.add(MIDDLE, percentile(took, 0.5), percentile(bare, 0.5))
                    run.add(LATE, percentile(took, 0.99), percentile(bare, 0.99))


async def _cancelled(
    connection: Connection, heard: Heard, notes: _Notes, count: int
) -> tuple[list[float], list[float]]:
    """Milliseconds from each call to the handler's exception; and of bare notifications, to their arrival."""
    rows = await connection.fetch(
        "insert into pushq.jobs (task, payload) select 'bench.until_cancelled', jsonb_build_object('file', $1::text) "
        "from generate_series(1, $2) returning id",
        str(notes.file),
        count,
    )
    await notes.wait(count)  # all handlers run
    called: dict[UUID, float] = {}
    bare: list[float] = []
    for row in rows:
        await anyio.sleep(PAUSE)
        called[row["id"]] = time.monotonic()
        await connection.fetchval("select pushq.cancel($1)", row["id"])
        bare.append(await notify(connection, heard))
    stopped = dict((await notes.wait(2 * count))[count:])
    return [1000 * (stopped[job] - began) for job, began in called.items()], bare


class _Notes:
    """The file in which handlers note when they began and when they were cancelled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    async def wait(self, count: int) -> Sequence[tuple[UUID, float]]:
        """The notes, once there are `count`, as ids and instants of time.monotonic()."""

        async def all_are_there() -> bool:
            return len(self._read()) >= count

        await wait_until(all_are_there, f"There were not {count} notes of handlers", within=SECONDS_TO_STOP)
        return self._read()

    def _read(self) -> list[tuple[UUID, float]]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [(UUID(job), float(now)) for job, now in (line.split() for line in lines)]
