-- Takes those of the jobs $1 that are queued, for pool $3 of supervisor $2, under the token $4, as claim.sql does: for when that
-- was undone, and it is to be found out for which of them. None at all, to find out whether it is for any.
with claimable as materialized (
    select job.id
    from pushq.jobs_unfinished as job
    where job.id = any($1::uuid[]) and job.status = 'queued'
    and exists (select from pushq.supervisors where name = $2 and lease_until > now())
    order by job.id
    for no key update skip locked
)
update pushq.jobs_unfinished as job
set status = 'running',
    attempt = attempt + (attempt < 2147483647)::int,
    supervisor = $2,
    pool = $3,
    token = $4,
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
