-- The job $1, with every column. An id may be used again after a job has finished: the newest job is returned. due_in: as in
-- list_jobs.sql.
select
    id, task, queue, status, priority, payload::text as payload, result::text as result, progress::text as progress, error, traceback, run_at, attempt,
    failures, crashes, max_attempts, timeout, unique_key, tenant_id, correlation_id, traceparent, webhook_url, needs::text as needs,
    limit_key, affinity, submitted_by, enqueued_at, started_at, finished_at, supervisor, pool, apart,
    case when status = 'queued' then extract(epoch from run_at - now())::float8 end as due_in
from pushq.jobs
where id = $1
order by finished_on desc, finished_at desc
limit 1
