-- The job that claim_suspect.sql would take, of the queues $1 and the tasks $2, but for the jobs $3: asked after a
-- claim that was rolled back.
select unnest(pushq.lock_fitting(pushq.due_suspects($1::text[], $2::text[], $3::uuid[]), 1, 1)) as id
