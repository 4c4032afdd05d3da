-- Whether a job that has already killed two processes is due, in the queues $1, where they are not paused, and of the tasks
-- $2.
select exists (
    select
    from pushq.jobs_unfinished as job
    where job.status = 'queued' and job.crashes >= 2 and job.queue = any($1::text[]) and job.task = any($2::text[])
    and job.run_at <= now()
    and not exists (select from pushq.queues as paused where paused.name = job.queue and paused.paused_at is not null)
) as are_due
