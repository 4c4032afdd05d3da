"""What a claim reads does not depend on jobs that it cannot take: counted in buffers, behind many of them and none."""

from __future__ import annotations

import pytest

from tests.support.claiming import Claiming
from tests.support.jobs import Connection, insert

MANY = 50_000
SPREAD = "generate_series(-30000, 30000) as n where n <> 0"
BACKLOGS = {
    "of another's task": f"select 'other' as task from generate_series(1, {MANY})",
    "of a task of its own each": f"select md5(n::text) as task from generate_series(1, {MANY}) as n",
    "of a paused queue": f"select 'mail' as task, 'paused' as queue from generate_series(1, {MANY})",
    "of a queue that is not served": f"select 'mail' as task, 'elsewhere' as queue from generate_series(1, {MANY})",
    "due later": f"select 'mail' as task, now() + n * interval '1 min' as run_at from generate_series(1, {MANY}) as n",
    "of others, due later": f"select 'other' as task, now() + '1 h' as run_at from generate_series(1, {MANY})",
    "of 60,000 priorities, due later": f"select 'mail' as task, n as priority, now() + '1 h' as run_at from {SPREAD}",
    "of 60,000 priorities of another's task": f"select 'other' as task, n as priority from {SPREAD}",
    "of 60,000 priorities of others, due later": (
        f"select 'o' || n as task, n as priority, now() + '1 h' as run_at from {SPREAD}"
    ),
    "of one more urgent priority, due later": (
        f"select 'mail' as task, -1 as priority, now() + n * interval '1 minute' as run_at "
        f"from generate_series(1, {MANY}) as n"
    ),
}


@pytest.mark.parametrize("analyze", ["select", "analyze pushq.jobs_unfinished"], ids=["never analysed", "analysed"])
@pytest.mark.parametrize("backlog", BACKLOGS.values(), ids=BACKLOGS.keys())
async def test_behind_a_backlog_a_claim_reads_hardly_more_than_in_an_empty_queue(
    database_url: str, connection: Connection, backlog: str, analyze: str
) -> None:
    async with Claiming.at(database_url, connection) as pool:
        empty = await pool.look()
        names = [part.split()[0].rstrip(",") for part in backlog.partition(" from ")[0].split(" as ")[1:]]
        await connection.execute(f"insert into pushq.jobs ({', '.join(names)}) {backlog}")
        await connection.execute(analyze)
        behind = await pool.look()

        # An index over fifty thousand is two levels higher, and another index or two are looked into.
        assert all(after <= before + 60 for before, after in zip(empty, behind, strict=True)), (empty, behind)
        (ordinary,) = await insert(connection, "report")
        (patient,) = await insert(connection, "report", priority=32767)
        assert await pool.claim(1) == [ordinary]
        assert await pool.claim(10) == [patient]


async def test_a_claim_of_few_reads_few_of_sixty_thousand_priorities(database_url: str, connection: Connection) -> None:
    async with Claiming.at(database_url, connection) as pool:
        await connection.execute(f"insert into pushq.jobs (task, priority) select 'mail', n from {SPREAD}")
        assert len(await pool.claim(10)) == 10
        taken = (
            "select array_agg(priority order by priority) from pushq.jobs where status = 'running' and priority < -1"
        )
        assert await connection.fetchval(taken) == [*range(-30000, -29990)]
        assert await pool.claim_reads(10) < 1500


async def test_jobs_that_were_inserted_alternately_need_no_turn_each(database_url: str, connection: Connection) -> None:
    async with Claiming.at(database_url, connection) as pool:
        age = "now() - interval '100 minutes' + n * interval '1 ms'"
        alternating = f"select (array['mail', 'report'])[1 + n % 2], {age} from generate_series(1, 1000) as n"
        await connection.execute(f"insert into pushq.jobs (task, run_at) {alternating}")
        await connection.execute("vacuum pushq.jobs_unfinished")
        assert await pool.claim_reads(200) < 20 * 200


async def test_an_urgent_job_that_is_tried_again_is_behind_no_backlog_of_less_urgent_ones(
    database_url: str, connection: Connection
) -> None:
    """Of its own task, all overdue and for longer."""
    async with Claiming.at(database_url, connection) as pool:
        overdue = (
            "insert into pushq.jobs (task, priority, run_at, enqueued_at) "
            "select 'mail', $1, now() - $2 * interval '1 s', now() - interval '1 d' from generate_series(1, $3)"
        )
        await connection.execute(overdue, 10, 3600, MANY)
        await connection.execute(overdue, -10, 1, 1)
        (urgent,) = await pool.claim(1)
        assert await connection.fetchval("select priority from pushq.jobs where id = $1", urgent) == -10
