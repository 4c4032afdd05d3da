"""Fills tables like a queue after months: with history, a backlog, jobs that are due later."""

from __future__ import annotations

from pushq.bench.connection import Connection
from pushq.bench.ground import checkpoint

CHUNK = 500_000
"""Rows a statement."""
SECONDS = 600.0
"""Deadline of a statement."""


async def fill_history(connection: Connection, count: int, tenant: str | None = None) -> None:
    """Inserts finished jobs, into the current day. tenant: whose jobs these are."""
    await _in_chunks(
        connection,
        """
        insert into pushq.jobs (
            task, tenant_id, status, attempt, started_at, finished_at, supervisor, pool, token, finished_on)
        select
            'bench.noop', $2, 'succeeded', 1, now(), now(), 'bench', 1, gen_random_uuid(), (select pushq.current_day())
        from generate_series(1, $1)
        """,
        count,
        tenant,
    )


async def fill_days(connection: Connection, count: int) -> None:
    """Inserts finished jobs into every day, of ten tasks, five queues, 97 tenants. One in a hundred failed."""
    days = [row["day"] for row in await connection.fetch("select day from pushq.days order by day")]
    for day in days:
        await _in_chunks(
            connection,
            """
            insert into pushq.jobs (
                task, queue, tenant_id, status, attempt, started_at, finished_at, supervisor, pool, token, finished_on)
            select
                'bench.task' || i % 10, 'bench.queue' || i % 5, 'tenant' || i % 97,
                case when i % 100 = 7 then 'failed' else 'succeeded' end, 1, now(), now(), 'bench', 1,
                gen_random_uuid(), $2
            from generate_series(1, $1) as i
            """,
            count // len(days),
            day,
        )


async def fill_queues(connection: Connection, count: int) -> None:
    """Inserts due jobs of ten tasks into three queues. Ten of the jobs run.

    A hundred jobs of a rare task, in a queue of their own, are older.
    """
    rare = "insert into pushq.jobs (task, queue) select 'bench.rare', 'bench.rare' from generate_series(1, 100)"
    await connection.execute(rare)
    await _in_chunks(
        connection,
        "insert into pushq.jobs (task, queue) select 'bench.task' || i % 10, 'bench.queue' || i % 3 "
        "from generate_series(1, $1) as i",
        count,
    )
    await connection.execute(
        """
        update pushq.jobs_unfinished
        set status = 'running', token = gen_random_uuid(), supervisor = 'bench', pool = 1, started_at = now()
        where id in (select id from pushq.jobs_unfinished order by id desc limit 10)
        """
    )


async def fill_queue(connection: Connection, count: int, queue: str = "bench.unserved") -> None:
    """Inserts due jobs, into a queue without a supervisor."""
    await _in_chunks(
        connection,
        "insert into pushq.jobs (task, queue) select 'bench.noop', $2 from generate_series(1, $1)",
        count,
        queue,
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
