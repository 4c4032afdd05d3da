-- The newest $5 jobs with status $1, queue $2 and task $3 (null: any). $4: true lists only queued jobs whose task no supervisor
-- has ever known.
select
    job.id, job.task, job.queue, job.status, job.priority, job.run_at, job.attempt, job.failures, job.crashes,
    job.max_attempts, job.unique_key, job.tenant_id, job.correlation_id, job.submitted_by, job.enqueued_at,
    job.started_at, job.finished_at, job.supervisor, job.error,
    exists (select from pushq.tasks where name = job.task) as task_is_known,
    exists (select from pushq.queues where name in (job.queue, '*') and paused_at is not null) as queue_is_paused
from pushq.jobs as job
where ($1::text is null or job.status = $1)
and (($1::text is null or $1 not in ('queued', 'running')) and not $4::boolean or job.finished_on = 'infinity')
and ($2::text is null or job.queue = $2)
and ($3::text is null or job.task = $3)
and (not $4::boolean
    or (job.status = 'queued' and not exists (select from pushq.tasks where name = job.task)))
order by job.id desc
limit $5
