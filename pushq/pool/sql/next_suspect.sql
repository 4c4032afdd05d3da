-- The job that claim_suspect.sql would take, of the queues $1 and the tasks $2, but for the jobs $3: asked after a
-- claim that was rolled back.
select unnest(pushq.as_wanted(
    pushq.lock_fitting(pushq.due_suspects($1::text[], $2::text[], $3::uuid[]), 1, 1), $1::text[], $2::text[], clock_timestamp(),
    '{solo}')) as id
