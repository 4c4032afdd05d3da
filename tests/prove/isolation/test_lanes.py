"""Claims of jobs with needs beside what gives units back, two at a time: nobody waits for ever, nothing is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import permutations

import asyncpg
import pytest
import pytest_asyncio

from tests.support.jobs import Connection

# Two running jobs hold a unit each of two names, of capacity 3. Six wait.
SETTING = """
insert into pushq.supervisors (name, host, pid, lease, lease_until)
values ('anna', 'here', 1, '1 hour', now() + interval '1 hour');
insert into pushq.resources (name, capacity) values ('a', 3), ('b', 3);
insert into pushq.jobs (id, task, needs) select
    ('00000000-0000-0000-0000-00000000000' || number)::uuid, 'echo',
    case when number % 2 = 0 then '{"a": 1, "b": 1}' else '{"b": 1, "a": 1, "c": 1}' end::jsonb
from generate_series(1, 7) as number;
insert into pushq.jobs (id, task, needs) values ('00000000-0000-0000-0000-000000000008', 'echo', '{"b": 2}');
update pushq.jobs_unfinished
set status = 'running', attempt = 1, token = id, started_at = now(), supervisor = 'anna', pool = 1
where id::text like '%-00000000000_' and right(id::text, 1) in ('1', '2');
"""
ONE, TWO = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))
HAND_OUT = """
select count(*) from pushq.hand_out({ids}, 'anna', 1, gen_random_uuid(), '{{}}')
"""
QUEUED = "select id from pushq.jobs_unfinished where status = 'queued' order by id"
STATEMENTS = {
    "claim": HAND_OUT.format(
        ids="pushq.lock_claimable('{default}', '{echo}', 'anna', 5, '-infinity', now(), 5, true, null, null, null)"
    ),
    "claim_these_in_their_order": HAND_OUT.format(ids=f"pushq.lock_fitting(array({QUEUED}), 9, 9)"),
    "claim_these_in_another_order": HAND_OUT.format(ids=f"pushq.lock_fitting(array({QUEUED} desc), 9, 9)"),
    "follow": f"""
        select count(*)
        from pushq.end_sorted(
            array['{ONE}'::uuid], array['{ONE}'::uuid], '{{0}}', '{{0}}', '{{}}', '{{}}', '{{}}', '{{}}'
        ) as ended (places, told)
        left join lateral pushq.follow(
            ended.places, '{{default}}', array(select lane from pushq.jobs_unfinished where id = '{ONE}'), '{{false}}',
            '{{echo}}', 'anna', 1, gen_random_uuid(), '{{}}') on true""",
    "finish": f"""
        select pushq.end_jobs(array['{TWO}', '{ONE}']::uuid[], array['{TWO}', '{ONE}']::uuid[], null, null,
            '{{succeeded,succeeded}}', null, null, null)""",
    "retry": f"""
        select pushq.give_back(
            array['{ONE}']::uuid[], array['{ONE}']::uuid[], '{{retried}}', '{{0}}', '{{}}', '{{}}')""",
    "cancel_running": f"select pushq.cancel('{TWO}')",
    "cancel_queued": "select pushq.cancel('00000000-0000-0000-0000-000000000004')",
    "take": "select pushq.take('00000000-0000-0000-0000-000000000006', 'bert', '1 hour')",
    "lower": "update pushq.resources set capacity = 1 where name = 'a'",
    "raise_both": "update pushq.resources set capacity = 4",
}


@pytest_asyncio.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize(("first", "second"), [*permutations(STATEMENTS, 2)])
async def test_of_two_statements_in_open_transactions_each_ends_and_nothing_is_over(
    connection: Connection, other: Connection, first: str, second: str
) -> None:
    """The second begins while the first is not committed, and the first ends meanwhile."""
    await connection.execute(SETTING)
    await connection.execute("set deadlock_timeout = '100ms'")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(STATEMENTS[first])
    running = asyncio.create_task(other.execute(STATEMENTS[second]))
    await asyncio.wait([running], timeout=0.03)
    await transaction.commit()
    await asyncio.wait_for(running, 10)

    over = await connection.fetch(
        "select held.name, held.units from pushq.held() as held join pushq.resources as rule using (name) "
        "where held.units > greatest(rule.capacity, 3)"
    )
    assert not over
    await connection.execute(STATEMENTS["claim"])  # and nobody is left who holds a turnstile
