-- Ends a batch of jobs, each only if still held under its token: pushq.end_sorted() explains $1 to $8. Returns the places in
-- the batch, from 1, of the accepted outcomes, or null for all; and what is to be told to those that wait for the jobs, or null.
select places, told
from pushq.end_sorted($1::uuid[], $2::uuid[], $3::float8[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[])
