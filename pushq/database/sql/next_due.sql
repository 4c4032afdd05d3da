-- What a pool that found nothing waits for: in how many seconds the next job of the queues $1 and the tasks $2 is due
-- (null: none is queued; negative: it became due just now), and whether the lease of supervisor $3 is live. What
-- has been due for longer than $4 seconds (null: forever) is not looked at.
with recursive mark as materialized (
    select coalesce(now() - $4::float8 * interval '1 second', '-infinity') as since
),
lane as (
    select
        queue.name,
        (
            select job.priority
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.crashes < 2 and not job.parked
            and job.queue = queue.name
            and job.run_at >= (select since from mark)
            order by job.priority
            limit 1
        ) as priority
    from unnest($1::text[]) as queue (name)
    where not exists (
        select from pushq.queues as paused where paused.name in (queue.name, '*') and paused.paused_at is not null)
    union all
    select
        lane.name,
        (
            select job.priority
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.crashes < 2 and not job.parked
            and job.queue = lane.name and job.priority > lane.priority
            and job.run_at >= (select since from mark)
            order by job.priority
            limit 1
        )
    from lane
    where lane.priority is not null
)
select
    (
        select extract(epoch from min(due.run_at) - now())::float8
        from lane
        cross join lateral (
            select job.run_at
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.crashes < 2 and not job.parked
            and job.queue = lane.name and job.priority = lane.priority
            and job.run_at >= (select since from mark) and job.task = any($2::text[])
            order by job.run_at, job.id
            limit 1
        ) as due
    ) as due_in,
    exists (select from pushq.supervisors where name = $3 and lease_until > now()) as lease_is_live
