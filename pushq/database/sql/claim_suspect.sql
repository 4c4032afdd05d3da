-- Takes the most urgent due job that has already killed two processes, of the queues $1 and the tasks $2, for pool $4 of
-- supervisor $3, under the token $5, but for those of $6. Its pool runs nothing beside it: a third death is charged to nobody else.
with claimable as materialized (
    select job.id
    from pushq.jobs_unfinished as job
    where job.status = 'queued' and job.crashes >= 2 and job.queue = any($1::text[])
    and job.run_at <= now() and job.task = any($2::text[]) and job.id <> all($6::uuid[])
    and exists (select from pushq.supervisors where name = $3 and lease_until > now())
    and not exists (
        select from pushq.queues as paused where paused.name in (job.queue, '*') and paused.paused_at is not null)
    order by job.priority, job.run_at, job.id
    limit 1
    for no key update skip locked
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
