-- The job that claim_suspect.sql would take, of the queues $1 and the tasks $2, but for those of $3: for when that was undone.
select job.id
from pushq.jobs_unfinished as job
where job.status = 'queued' and job.crashes >= 2 and job.queue = any($1::text[])
and job.run_at <= now() and job.task = any($2::text[]) and job.id <> all($3::uuid[])
and not exists (
    select from pushq.queues as paused where paused.name in (job.queue, '*') and paused.paused_at is not null)
order by job.priority, job.run_at, job.id
limit 1
for no key update skip locked
