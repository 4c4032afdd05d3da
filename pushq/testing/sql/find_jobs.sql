-- Jobs, finished or not, in the order of their insertion: of the task $1 (null: of any) whose payload holds $2; or those with
-- the ids $3, in that order.
select
    job.id, job.task, job.queue, job.status, job.priority, job.payload::text as payload, job.result::text as result, job.error,
    job.traceback, job.run_at, job.attempt, job.failures, job.unique_key, job.tenant_id, job.correlation_id,
    job.traceparent, job.webhook_url, job.needs::text as needs, job.limit_key, job.affinity
from pushq.jobs as job
where ($1::text is null or job.task = $1)
and job.payload @> $2::text::jsonb
and ($3::uuid[] is null or job.id = any($3))
order by array_position($3::uuid[], job.id), job.enqueued_at, job.id
