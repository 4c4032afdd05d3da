-- The first $1 queues by name that are known or hold unfinished jobs; also '*', while all queues are paused, or if '*' says how long
-- jobs are kept. queued counts up
-- to $2 jobs of each kind now; is_exact: false if there are more, and the larger count of the last census stands in.
-- oldest_seconds: how long the oldest job has been due, by the jobs counted, and by the census where they are not all. served:
-- a live supervisor serves the queue.
--
-- The indexes of claims lead from queue to queue, so that no look reads more than $1 times $2 rows of each kind.
with recursive ordinary as (
    (
        select queue collate "C" as queue
        from pushq.jobs_unfinished
        where status = 'queued' and apart is null and priority = 0
        order by queue collate "C"
        limit 1
    )
    union all
    select following.queue
    from ordinary
    cross join lateral (
        select job.queue collate "C" as queue
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority = 0
        and job.queue collate "C" > ordinary.queue
        order by job.queue collate "C"
        limit 1
    ) as following
),
by_priority as (
    (
        select queue collate "C" as queue
        from pushq.jobs_unfinished
        where status = 'queued' and apart is null and priority <> 0
        order by queue collate "C"
        limit 1
    )
    union all
    select following.queue
    from by_priority
    cross join lateral (
        select job.queue collate "C" as queue
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority <> 0
        and job.queue collate "C" > by_priority.queue
        order by job.queue collate "C"
        limit 1
    ) as following
),
suspect as materialized (
    select queue, run_at, enqueued_at
    from pushq.jobs_unfinished
    where status = 'queued' and apart is not null
    limit $1::int * $2::int
),
running as materialized (
    select queue, count(*) as jobs from pushq.jobs_unfinished where status = 'running' group by queue
),
named as materialized (
    select queue
    from (
        (select queue from ordinary limit $1)
        union
        (select queue from by_priority limit $1)
        union
        select queue collate "C" from suspect
        union
        select queue collate "C" from running
        union
        select name collate "C"
        from pushq.queues
        where name <> '*' or paused_at is not null or keep is not null or keep_failed is not null
    ) as every
    order by queue
    limit $1
)
select
    named.queue,
    greatest(waiting.jobs, case when not waiting.are_all then counted.jobs end) as queued,
    coalesce(running.jobs, 0) as running,
    extract(epoch from now() - least(waiting.oldest, case when not waiting.are_all then counted.oldest_due_at end))::float8
        as oldest_seconds,
    exists (
        select from pushq.supervisors as living where lease_until > now() and named.queue = any(living.queues)
    ) as served,
    exists (select from pushq.queues where name in (named.queue, '*') and paused_at is not null) as paused,
    waiting.are_all as is_exact,
    exists (select from pushq.queues where name = named.queue and all_events) as all_events,
    (select keep::text from pushq.queues where name = named.queue) as keep,
    (select keep_failed::text from pushq.queues where name = named.queue) as keep_failed
from named
cross join lateral (
    select
        count(*) as jobs,
        min(greatest(run_at, enqueued_at)) filter (where run_at <= now()) as oldest,
        count(*) filter (where kind = 'ordinary') < $2 and count(*) filter (where kind = 'by priority') < $2 as are_all
    from (
        (
            select 'ordinary' as kind, job.run_at, job.enqueued_at
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart is null and job.priority = 0 and job.queue collate "C" = named.queue
            limit $2
        )
        union all
        (
            select 'by priority', job.run_at, job.enqueued_at
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = named.queue
            limit $2
        )
        union all
        select 'suspect', suspect.run_at, suspect.enqueued_at from suspect where suspect.queue = named.queue
    ) as job
) as waiting
left join running on running.queue = named.queue
left join pushq.census as counted on counted.queue = named.queue and counted.status = 'queued'
order by named.queue
