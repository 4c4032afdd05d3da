"""The order in which due jobs are claimed: by priority, by the order of the queues, by run_at."""

from __future__ import annotations

import random
from uuid import UUID

from tests.support.claiming import CLAIMANT, Claiming
from tests.support.jobs import Connection

AGE = "now() - interval '100 minutes' + {} * interval '90 s'"
"""A claim may take jobs of several tasks out of order by a hundredth of their age: by less than 90 s here."""


SUSPECTS = """
insert into pushq.jobs (task, queue, priority, run_at, correlation_id)
select task, queue, priority, run_at, 'suspect' from pushq.jobs where status = 'queued'
order by run_at offset 20 limit 10;
update pushq.jobs set crashes = 2 where correlation_id = 'suspect'
"""
"""Jobs that have killed two processes, of each task, among the others: no claim takes them."""


async def insert_in_any_order(connection: Connection, *, queues: str, priorities: str) -> list[UUID]:
    """Sixty jobs of three tasks, each due for 90 s less than the one before. Returns them as they are to be claimed."""
    luck, line = random.Random(1), []
    for number in range(60):
        queue, priority = luck.choice(queues.split()), int(luck.choice(priorities.split()))
        job = await connection.fetchval(
            f"insert into pushq.jobs (task, queue, priority, run_at, enqueued_at) "
            f"values ($1, $2, $3, {AGE.format(number)}, {AGE.format(number)}) returning id",
            luck.choice(CLAIMANT.tasks),
            queue,
            priority,
        )
        line.append((priority, CLAIMANT.queues.index(queue), number, job))
    await connection.execute(SUSPECTS)
    return [job for *_, job in sorted(line)]


async def check_one_by_one(pool: Claiming, connection: Connection) -> None:
    line = await insert_in_any_order(connection, queues="bulk default", priorities="-7 -2 0 0 3 9")
    assert [await pool.claim(1) for _ in line] == [[job] for job in line]


async def check_many_at_once(pool: Claiming, connection: Connection) -> None:
    line = await insert_in_any_order(connection, queues="default bulk", priorities="0")
    for size in (1, 2, 3, 5, 8, 13, 21, 60):
        assert set(await pool.claim(size)) == set(line[:size])
        del line[:size]


async def test_a_single_worker_gets_all_in_order(database_url: str, connection: Connection) -> None:
    async with Claiming.at(database_url, connection) as pool:
        await check_one_by_one(pool, connection)


async def test_many_workers_get_what_is_due_for_longest_of_all_tasks(database_url: str, connection: Connection) -> None:
    async with Claiming.at(database_url, connection) as pool:
        await check_many_at_once(pool, connection)
