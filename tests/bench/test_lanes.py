"""What `pushq bench lanes` measures is what it says. `tests/prove/bench` runs the scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushq.bench.backend import INSERT, load_anew
from pushq.bench.ground import Ground
from pushq.bench.lanes import fair, freed, limit
from pushq.bench.lanes.drained import JUDGE
from pushq.bench.lanes.extra import EndJobs, pool_in_database
from pushq.bench.pgbench import Pgbench
from pushq.bench.run import Record, Run, Scope, Teller
from tests.support.jobs import Connection
from tests.support.server import Server

FINISHED = """
insert into pushq.jobs (
    task, queue, lane, status, attempt, enqueued_at, started_at, finished_at, supervisor, pool, token, finished_on)
select
    'bench.noop', queue, lane, 'succeeded', 1, now() - interval '1 minute', now() + began * interval '1 second',
    now() + ended * interval '1 second', 'bench', 1, gen_random_uuid(), (select pushq.current_day())
from unnest($1::text[], $2::text[], $3::float8[], $4::float8[]) as given (queue, lane, began, ended)
returning id
"""
BEFORE_ALL = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(("second_began", "at_once"), [(1.0, 1), (0.9, 2)])
async def test_two_jobs_that_hold_one_name_at_once_are_seen_in_their_rows(
    connection: Connection, second_began: float, at_once: int
) -> None:
    lanes, began, ended = ["one", "one", "other", None], [0.0, second_began, 0.0, 0.0], [1.0, 2.0, 2.0, 2.0]
    await connection.fetch(FINISHED, ["default"] * 4, lanes, began, ended)

    row = await connection.fetchrow(JUDGE, BEFORE_ALL)

    assert row
    assert (row["finished"], row["seconds"], row["at_once"]) == (4, 2.0, at_once)


async def test_a_freed_unit_is_timed_from_the_end_of_a_job_to_the_start_of_the_next_of_another_queue(
    connection: Connection,
) -> None:
    queues, began, ended = ["a", "b", "b", "a"], [0.0, 1.005, 2.1, 3.25], [1.0, 2.0, 3.0, 4.0]
    ids = [row["id"] for row in await connection.fetch(FINISHED, queues, queues, began, ended)]

    gaps = [row["gap"] for row in await connection.fetch(freed.GAPS, ids)]

    assert gaps == pytest.approx([5.0, 250.0])


@pytest.mark.parametrize(
    ("rule", "insert", "end_jobs", "left", "lane_like"),
    [
        (limit.LIMIT, INSERT, limit.claim_in_lanes_and_finish, 20, '__{"queue:default": 1}'),
        (limit.LIMIT, INSERT, limit.finish_and_follow, 10, '__{"queue:default": 1}'),
        (fair.FAIR, fair.INSERT, fair.claim_in_turn_and_finish, 20, ""),
    ],
)
async def test_jobs_end_under_the_rule_that_is_measured(
    server: Server,
    connection: Connection,
    rule: str,
    insert: str,
    end_jobs: EndJobs,
    left: int,
    lane_like: str,
) -> None:
    async with Ground.opened(server.url, Pgbench.find(Path(server.bin_directory))) as ground:
        run = Run(ground, connection, Scope(), Record(), Teller())
        async with pool_in_database(run, rule) as (there, pool):
            await load_anew(there, 40, insert)

            assert await end_jobs(pool, 10, 2) > 0

            seen = "select count(*), bool_and(lane like $1) from pushq.jobs where (finished_on = 'infinity') = $2"
            assert tuple(*await there.fetch(seen, lane_like, True)) == (left, True)
            assert tuple(*await there.fetch(seen, lane_like, False)) == (40 - left, True)
