"""How long `pushq.why` and `pushq.position` take with a million queued jobs; the slowest of ten tries, in milliseconds.

.venv/bin/python -m tests.bench.why_speed              # the embedded PostgreSQL
.venv/bin/python -m tests.bench.why_speed --oldest     # PostgreSQL 15
.venv/bin/python -m tests.bench.why_speed --jobs 100000
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import asyncpg

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer
from tests.support import oldest
from tests.support.jobs import Connection

MOST_MS = 40.0
TRIES = 10
KINDS = {
    "plain": "task, queue) select 'task' || i % 50, 'plain'",
    "urgent": "task, queue, priority) select 'task' || i % 50, 'urgent', 1 + i % 200",
    "lanes": "task, queue, priority, needs) select 'task' || i % 50, 'lanes', i % 20, "
    "jsonb_build_object('model' || i % 1000, 1, 'gpu', 1)",
}
"""A third of the jobs each: equally urgent ones, ones of many priorities, ones in a thousand lanes."""
HELD = """
insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues, workers)
select 'bench', 'here', 1, '1 day', now() + interval '1 day', array_agg('task' || i), '{plain,urgent,lanes}', 100
from generate_series(0, 49) as i;
insert into pushq.resources (name, capacity) values ('gpu', 100);
update pushq.jobs_unfinished
set status = 'running', token = gen_random_uuid(), supervisor = 'bench', pool = 1, attempt = 1, started_at = now()
where id in (select id from pushq.jobs_unfinished where queue = 'lanes' order by priority, run_at, id limit 100);
"""


async def measure(url: str, jobs: int) -> None:
    await migrate(url)
    connection = await asyncpg.connect(url)
    for columns in KINDS.values():
        for start in range(0, jobs // 3, 20_000):
            until = min(start + 20_000, jobs // 3) - 1
            await connection.execute(f"insert into pushq.jobs ({columns} from generate_series({start}, {until}) as i")
    await connection.execute(HELD)
    await connection.execute("vacuum analyze pushq.jobs_unfinished")
    print(await connection.fetchval("show server_version"), f"{jobs:,} jobs")
    for queue in KINDS:
        for place, order in (("first", "asc"), ("last", "desc")):
            job = await connection.fetchval(
                "select id from pushq.jobs_unfinished where status = 'queued' and queue = $1 "
                f"order by priority {order}, run_at {order}, id {order} limit 1",
                queue,
            )
            await _time(connection, f"position, {queue}, {place}", f"select pushq.position('{job}')")
            await _time(connection, f"why, {queue}, {place}", f"select * from pushq.why('{job}')")
        await _time(connection, f"why_queue, {queue}", f"select * from pushq.why_queue('{queue}')")
    await connection.close()


async def _time(connection: Connection, what: str, statement: str) -> None:
    times = []
    for _ in range(TRIES + 1):
        began = time.perf_counter()
        await connection.fetch(statement)
        times.append(1000 * (time.perf_counter() - began))
    median, slowest = statistics.median(times[1:]), max(times[1:])
    print(f"{what:24} {median:6.1f} {slowest:6.1f}" + ("" if median <= MOST_MS else f"   over {MOST_MS:g}"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--oldest", action="store_true")
    options.add_argument("--jobs", type=int, default=1_000_000)
    given = options.parse_args()
    binaries = oldest.binaries() if given.oldest else None
    with EmbeddedServer(binaries=binaries) if given.oldest else EmbeddedServer() as server:
        asyncio.run(measure(server.url(), given.jobs))


if __name__ == "__main__":
    main()
