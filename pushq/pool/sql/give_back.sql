-- Puts the jobs of a batch back into their queues, each only if still held under its token: pushq.give_back() explains $1 to $6.
-- Returns the places in the batch, from 1, of the accepted outcomes, or null for all.
select pushq.give_back($1::uuid[], $2::uuid[], $3::text[], $4::float8[], $5::text[], $6::text[]) as places
