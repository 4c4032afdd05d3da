-- The first $4 jobs that a claim would take now, of the queues $1 and the tasks $2, for supervisor $3: in its order, but for
-- tasks that share a priority. For when a claim was undone, and it is to be found out for which of them.
select job.id
from pushq.jobs_unfinished as job
where job.status = 'queued' and job.crashes < 2 and job.queue = any($1::text[]) and job.task = any($2::text[])
and job.run_at <= now()
and exists (select from pushq.supervisors where name = $3 and lease_until > now())
and not exists (
    select from pushq.queues as paused where paused.name in (job.queue, '*') and paused.paused_at is not null)
order by job.priority, array_position($1::text[], job.queue), job.run_at, job.id
limit $4
for no key update skip locked
