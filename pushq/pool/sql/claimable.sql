-- The first $4 jobs that a claim would take now, of the queues $1 and the tasks $2 (sorted by their bytes), for supervisor $3.
-- For when a claim was undone, and it is to be found out for which of them.
select unnest(pushq.lock_claimable($1::text[], $2::text[], $3::text, $4::int, '-infinity', now())) as id
