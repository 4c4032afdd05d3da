-- The job that claim_suspect.sql would take, of the queues $1 and the tasks $2, but for the jobs $3: asked after a
-- claim that was rolled back.
select job.id
from pushq.jobs_unfinished as job
where job.status = 'queued' and job.apart = 'solo' and job.queue in (select name from pushq.open_queues($1::text[]))
and job.run_at <= now() and job.task = any($2::text[]) and job.id <> all($3::uuid[])
order by job.priority, job.run_at, job.id
limit 1
for no key update of job skip locked
