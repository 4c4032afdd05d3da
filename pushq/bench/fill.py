"""Fills tables like a queue after months: with history, a backlog, jobs that are due later."""

from __future__ import annotations

from pushq.bench.connection import Connection
from pushq.bench.ground import checkpoint

CHUNK = 500_000
"""Rows a statement."""
SECONDS = 600.0
"""Deadline of a statement."""


async def fill_history(connection: Connection, count: int) -> None:
    """Inserts finished jobs, into the current day."""
    await _in_chunks(
        connection,
        """
        insert into pushq.jobs (
            task, status, attempt, started_at, finished_at, supervisor, pool, token, finished_on)
        select
            'bench.noop', 'succeeded', 1, now(), now(), 'bench', 1, gen_random_uuid(), (select pushq.current_day())
        from generate_series(1, $1)
        """,
        count,
    )


async def fill_queue(connection: Connection, count: int) -> None:
    """Inserts due jobs, into a queue without a supervisor."""
    await _in_chunks(
        connection,
        "insert into pushq.jobs (task, queue) select 'bench.noop', 'bench.unserved' from generate_series(1, $1)",
        count,
    )


async def fill_later(connection: Connection, count: int) -> None:
    """Inserts jobs into the measured queue, due in 24 to 48 hours."""
    await _in_chunks(
        connection,
        "insert into pushq.jobs (task, run_at) select 'bench.stamp', now() + interval '1 day' * (1 + random()) "
        "from generate_series(1, $1)",
        count,
    )


async def fill_backlog(connection: Connection, count: int, seconds: float) -> None:
    """Inserts due jobs of low priority into the measured queue. seconds: run of each job."""
    await _in_chunks(
        connection,
        "insert into pushq.jobs (task, payload, priority) "
        "select 'bench.sleep', jsonb_build_object('seconds', $2::float8), 10 from generate_series(1, $1)",
        count,
        seconds,
    )


async def _in_chunks(connection: Connection, statement: str, count: int, *arguments: object) -> None:
    for done in range(0, count, CHUNK):
        await connection.execute(statement, min(CHUNK, count - done), *arguments, timeout=SECONDS)
    await connection.execute("vacuum (analyze) pushq.jobs", timeout=SECONDS)
    await checkpoint(connection)
