-- The jobs taken by a claim of supervisor $1 under the token $2: asked when the reply to the claim was lost.
select
    job.id, job.task, job.queue, pushq.claimed_payload(job.payload, job.payload_is_too_long) as payload,
    job.attempt, job.failures, job.crashes, job.max_attempts,
    extract(epoch from job.timeout)::float8 as timeout, job.tenant_id, job.correlation_id, job.token,
    pushq.extras(
        job.progress, job.traceparent, job.queue, job.task, job.tenant_id, array(select queue from pushq.noted_queues),
        job.lane, job.affinity, job.share) as extras
from pushq.jobs_unfinished as job
where job.status = 'running' and job.supervisor = $1 and job.token = $2
