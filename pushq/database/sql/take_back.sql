-- The jobs that a claim of supervisor $1 with the token $2 took: for when its reply was lost.
select
    job.id, job.task, job.queue,
    case
        when job.payload_is_too_long or pg_column_size(job.payload) > 8192 then null
        when pg_column_size(job.payload || '{}') > 8192 then null  -- unpacked, where it is kept compressed
        when octet_length(job.payload::text) <= 65536 then job.payload::text  -- a number's digits may be many
    end as payload,
    job.attempt, job.failures, job.crashes, job.max_attempts,
    extract(epoch from job.timeout)::float8 as timeout, job.tenant_id, job.correlation_id, job.token
from pushq.jobs_unfinished as job
where job.status = 'running' and job.supervisor = $1 and job.token = $2
