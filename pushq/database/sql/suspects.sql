-- Whether a job that has already killed two processes is due, in the queues $1 and of the tasks $2.
select exists (
    select
    from pushq.jobs_unfinished
    where status = 'queued' and crashes >= 2 and queue = any($1::text[]) and task = any($2::text[]) and run_at <= now()
) as are_due
