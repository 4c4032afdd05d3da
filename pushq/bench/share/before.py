"""Before waits, events and tenants."""

from __future__ import annotations

from pushq.bench.free import Before

BEFORE = Before(
    "share",
    6,
    claim="""
select *
from pushq.claim_locked(
    pushq.lock_claimable(
        $1::text[], $2::text[], $3::text, $6::int, coalesce(now() - $7::float8 * interval '1 second', '-infinity'),
        now() - coalesce($8::float8, 0) * interval '1 second'),
    $3, $4::int, $5::uuid)
""",
    finish="""
select pushq.end_jobs(
    $1::uuid[], $2::uuid[], $3::float8[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[]) as places
""",
)
