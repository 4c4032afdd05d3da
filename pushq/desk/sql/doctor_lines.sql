-- The tasks and queues of jobs that have been due for ten seconds, at most $1 lines: found by leaps, as in find_queued.sql.
with recursive line as (
    (
        select job.queue collate "C" as queue, job.task collate "C" as task
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority = 0
        order by job.queue collate "C", job.task collate "C"
        limit 1
    )
    union all
    select following.queue, following.task
    from line
    cross join lateral (
        select job.queue collate "C" as queue, job.task collate "C" as task
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority = 0
        and (job.queue collate "C", job.task collate "C") > (line.queue, line.task)
        order by job.queue collate "C", job.task collate "C"
        limit 1
    ) as following
)
select found.task, found.queue
from (select queue, task from line limit $1) as found
where exists (
    select from pushq.jobs_unfinished as job
    where job.status = 'queued' and job.apart is null and job.priority = 0
    and job.queue collate "C" = found.queue and job.task collate "C" = found.task
    and job.run_at <= now() - interval '10 seconds')
