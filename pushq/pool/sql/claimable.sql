-- The first $4 jobs that a claim would take now, of the queues $1 and the tasks $2 (sorted by their bytes), for supervisor
-- $3: after a claim that was rolled back, the jobs of which one may be at fault.
select unnest(pushq.lock_claimable($1::text[], $2::text[], $3::text, $4::int, '-infinity', now(), $4::int, true, null, null, null)) as id
