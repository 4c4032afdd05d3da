-- The jobs with the ids $1 that finished on the days $2 (infinity: unfinished), in any order: all columns except payload,
-- result and traceback. due_in: seconds until a queued job is due, negative for an overdue job.
select
    job.id, job.task, job.queue, job.status, job.priority, job.run_at, job.attempt, job.failures, job.crashes,
    job.max_attempts, job.unique_key, job.tenant_id, job.correlation_id, job.submitted_by, job.enqueued_at,
    job.started_at, job.finished_at, job.supervisor, job.pool, job.apart, job.error, job.progress::text as progress,
    case when job.status = 'queued' then extract(epoch from job.run_at - now())::float8 end as due_in
from unnest($1::uuid[], $2::date[]) as found (id, day)
cross join lateral (
    select * from pushq.jobs as its where its.id = found.id and its.finished_on = found.day offset 0
) as job
