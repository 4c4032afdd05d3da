"""The CPU of the server's process behind a connection, and the work that is measured by the process's CPU."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Self

from pushq.bench.bare import Rows, claim_arguments
from pushq.bench.connection import Connection, connected
from pushq.bench.ground import database_in
from pushq.bench.run import Run
from pushq.errors import PushqError

NO_CPU = "This machine does not show the CPU of the server's processes; seconds of the clock stand in its place."

INSERT = "insert into pushq.jobs (task) select 'bench.noop' from generate_series(1, $1)"


@dataclass(frozen=True, slots=True)
class Backend:
    """A connection and its process. schedstat: the file with the CPU of the process; None: not on this machine."""

    connection: Connection
    schedstat: Path | None

    @classmethod
    def of(cls, connection: Connection, pid: int, database: str) -> Self:
        """On a remote server, a number is of another process of this machine, or of none: the title tells."""
        process = Path(f"/proc/{pid}")
        try:
            is_the_server = database in (process / "cmdline").read_text() and (process / "schedstat").read_text()
        except OSError:
            is_the_server = False
        return cls(connection, process / "schedstat" if is_the_server else None)

    def spent(self) -> float:
        """Seconds of CPU so far. Without a file: seconds of the clock."""
        if self.schedstat is None:
            return perf_counter()
        return int(self.schedstat.read_text().split()[0]) / 1e9


@asynccontextmanager
async def backend(run: Run, url: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Backend]:
    async with connected(url, settings) as connection:
        seen = Backend.of(connection, await connection.fetchval("select pg_backend_pid()"), database_in(url))
        if seen.schedstat is None:
            run.add_remark(NO_CPU)
        yield seen


def turns(run: Run, few: int, many: int) -> int:
    """Turns a round, each of which measures every side once. many: of the long form."""
    return max(2, round((many if run.scope.is_long else few) * min(1.0, run.scope.scale)))


async def load_anew(connection: Connection, count: int, insert: str = INSERT) -> None:
    """Leaves `count` jobs that do nothing as the only unfinished ones, in any version of the schema.

    insert: inserts $1 jobs.

    The table is vacuumed with its jobs inside. An autovacuum of the empty table would change the plans of statements.
    """
    await connection.execute("delete from pushq.jobs_unfinished")
    await connection.execute(insert, count)
    await connection.execute("vacuum (analyze) pushq.jobs_unfinished")


async def claim_and_finish(
    pool: Backend,
    claim: str,
    finish: str,
    arguments: Callable[[Rows], tuple[object, ...]],
    batch: int,
    batches: int,
    claiming: Callable[[int], tuple[object, ...]] = claim_arguments,
) -> float:
    """Seconds of CPU a job. arguments: of `finish`, for claimed rows. claiming: those of `claim`, for a number of jobs.

    The jobs must be there.
    """
    before = pool.spent()
    for _ in range(batches):
        rows = await pool.connection.fetch(claim, *claiming(batch))
        if len(rows) != batch:
            raise PushqError(f"A claim of {batch} jobs took {len(rows)}.")
        await pool.connection.fetch(finish, *arguments(rows))
    return (pool.spent() - before) / (batch * batches)
