-- Ends a batch of jobs, each only if still held under its token: pushq.end_sorted() explains $1 to $8. Returns the places in
-- the batch, from 1, of the accepted outcomes, or null for all; what is to be told to those that wait for the jobs, or null; and whether
-- jobs held units without the pool's knowledge, since a rule came while they ran.
select
    places, told,
    pg_sequence_last_value('pushq.needs_stamped') > 0 and exists (
        select from pushq.jobs_unfinished where id = any($1) and status = 'running' and needs is not null) as gave_units
from pushq.end_sorted($1::uuid[], $2::uuid[], $3::float8[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[])
