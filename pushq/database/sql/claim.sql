-- Takes up to $6 due jobs of the queues $1 (in their order, within a priority) and the tasks $2, the most urgent first, for
-- pool $4 of supervisor $3, under the token $5. Takes nothing when the supervisor's lease has run out: a sweeper may be
-- taking its jobs away at this moment.
--
-- The levels of priority that there are are found by hopping through the index, and no further than jobs are wanted: a
-- recursion is carried out as its rows are read. At each level only the queues that have it are looked at, and hop on from
-- there. Within a queue and a level the index goes straight to what is due, however many jobs wait for a later time. What
-- became due longer than $7 seconds ago (null: ever) or less than $8 seconds ago (null: 0) is not looked at, so that the
-- dead entries of finished jobs, which a long transaction elsewhere may keep from being cleared away, need not be passed
-- all at once.
with recursive mark as materialized (
    select
        coalesce(now() - $7::float8 * interval '1 second', '-infinity') as since,
        coalesce(now() - $8::float8 * interval '1 second', 'infinity') as until,
        now() - coalesce($8::float8, 0) * interval '1 second' as due_by
),
open_queue as materialized (
    select queue.name, row_number() over (order by queue.position) as place
    from unnest($1::text[]) with ordinality as queue (name, position)
    where not exists (
        select from pushq.queues as paused where paused.name in (queue.name, '*') and paused.paused_at is not null)
    order by queue.position
),
level as (  -- heads: the priority that each queue has next, by its place, this one or one further on; null: none
    select min(queue.head) as priority, array_agg(queue.head) as heads
    from (
        select (
            select job.priority
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.crashes < 2 and not job.parked
            and job.queue = open_queue.name
            and job.run_at >= (select since from mark) and job.run_at <= (select until from mark)
            order by job.priority
            limit 1
        ) as head
        from open_queue
    ) as queue
    union all
    select following.priority, following.heads
    from level
    cross join lateral (
        select min(queue.head) as priority, array_agg(queue.head) as heads
        from (
            select
                case when open_queue.head > level.priority then open_queue.head
                when open_queue.head = level.priority then (
                    select job.priority
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.crashes < 2 and not job.parked
                    and job.queue = open_queue.name and job.priority > level.priority
                    and job.run_at >= (select since from mark) and job.run_at <= (select until from mark)
                    order by job.priority
                    limit 1
                ) end as head
            from (select name, level.heads[place] as head from open_queue offset 0) as open_queue
            offset 0  -- so that it is not computed twice
        ) as queue
    ) as following
    where level.priority is not null
),
claimable as materialized (
    select due.id
    from level
    cross join lateral (
        select of_queue.id
        from (select name from open_queue where level.heads[place] = level.priority) as queue
        cross join lateral (
            select job.id
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.crashes < 2 and not job.parked
            and job.queue = queue.name and job.priority = level.priority
            and job.run_at >= (select since from mark) and job.run_at <= (select due_by from mark)
            and job.task = any($2::text[])
            order by job.run_at, job.id
            limit $6
            for no key update skip locked
        ) as of_queue
        limit $6
    ) as due
    where exists (select from pushq.supervisors where name = $3 and lease_until > now())
    limit $6
)
update pushq.jobs_unfinished as job
set status = 'running',
    attempt = attempt + (attempt < 2147483647)::int,
    supervisor = $3,
    pool = $4,
    token = $5,
    started_at = clock_timestamp()
where job.id = any(array(select claimable.id from claimable))
returning
    job.id, job.task, job.queue,
    case
        when job.payload_is_too_long or pg_column_size(job.payload) > 8192 then null
        when pg_column_size(job.payload || '{}') > 8192 then null  -- unpacked, where it is kept compressed
        when octet_length(job.payload::text) <= 65536 then job.payload::text  -- a number's digits may be many
    end as payload,
    job.attempt, job.failures, job.crashes, job.max_attempts,
    extract(epoch from job.timeout)::float8 as timeout, job.tenant_id, job.correlation_id, job.token
