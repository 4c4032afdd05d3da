-- Detaches the jobs $1 from their pool, each only if still held under its token in $2, for leases of $3 seconds:
-- pushq.detach() explains. Returns the places in the batch, from 1, of the accepted outcomes, or null for all.
select pushq.detach($1::uuid[], $2::uuid[], $3::float8[]) as places
