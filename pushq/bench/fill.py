"""Fills tables with what a queue has gathered after months: history, a backlog, jobs that are due later."""

from __future__ import annotations

from pushq.bench.connection import Connection
from pushq.bench.ground import checkpoint

CHUNK = 500_000
SECONDS = 600.0


async def fill_history(connection: Connection, count: int) -> None:
    """Finished jobs, in the day that takes them now."""
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
    """Jobs that are due, in a queue that nobody serves."""
    await _in_chunks(
        connection,
        "insert into pushq.jobs (task, queue) select 'bench.noop', 'bench.unserved' from generate_series(1, $1)",
        count,
    )


async def fill_later(connection: Connection, count: int) -> None:
    """Jobs of the queue that is measured, due within the day after tomorrow."""
    await _in_chunks(
        connection,
        "insert into pushq.jobs (task, run_at) select 'bench.stamp', now() + interval '1 day' * (1 + random()) "
        "from generate_series(1, $1)",
        count,
    )


async def fill_backlog(connection: Connection, count: int, seconds: float) -> None:
    """Jobs of the queue that is measured, due, less urgent than others, each of which takes so long."""
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
