"""Before needs, limits and fairness."""

from __future__ import annotations

from pushq.bench.free import Before

BEFORE = Before(
    "lanes",
    22,
    claim="""
select *
from pushq.hand_out(
    pushq.lock_claimable(
        $1::text[], $2::text[], $3::text, $6::int, coalesce(now() - $7::float8 * interval '1 second', '-infinity'),
        now() - coalesce($8::float8, 0) * interval '1 second'),
    $3, $4::int, $5::uuid, array(select queue from pushq.noted_queues))
""",
    finish="""
select places, told
from pushq.end_sorted(
    $1::uuid[], $2::uuid[], $3::float8[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[])
""",
    aim=0.97,
)
