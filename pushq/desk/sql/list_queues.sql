-- The queues that are known or hold unfinished jobs, with the unfinished jobs counted now. While all queues are paused, also
-- '*'. served: a live supervisor serves the queue.
select
    queue,
    count(job.id) filter (where job.status = 'queued') as queued,
    count(job.id) filter (where job.status = 'running') as running,
    extract(epoch from now() - min(greatest(job.run_at, job.enqueued_at))
        filter (where job.status = 'queued' and job.run_at <= now()))::float8 as oldest_seconds,
    exists (
        select from pushq.supervisors as living where lease_until > now() and named.queue = any(living.queues)
    ) as served,
    coalesce(bool_or(known.paused_at is not null), false)
        or exists (select from pushq.queues where name = '*' and paused_at is not null) as paused
from (
    select queue from pushq.jobs_unfinished
    union
    select name from pushq.queues where name <> '*' or paused_at is not null
) as named (queue)
left join pushq.jobs_unfinished as job using (queue)
left join pushq.queues as known on known.name = queue
group by queue
order by queue
