-- Takes up to 1,000 running jobs away from the supervisors $1, or only from their pool $2 where it is not null, and makes
-- them due at once. Where $3 is true the jobs are charged a crash: the third ends one as failed. Where it is false they
-- are released, at no charge. Where $4 is true only those who have no row lose theirs: one that was buried and has given a
-- sign of life since keeps what it holds, and what it has claimed anew. Rows that somebody is finishing at this moment are
-- theirs. Of $5 alone, where it is not null. Returns what became of each.
with seen as materialized (
    select id, token
    from pushq.jobs_unfinished as job
    where status = 'running' and supervisor = any($1::text[]) and ($2::int is null or pool = $2)
    and ($5::uuid[] is null or id = any($5))
    and not ($4 and exists (select from pushq.supervisors where name = job.supervisor))
),
held as (
    select job.id
    from seen
    join pushq.jobs_unfinished as job
        on job.id = seen.id and job.token = seen.token  -- the same claim still, now that its row is locked
    order by job.id
    limit 1000
    for update of job skip locked
),
failed as (
    delete from pushq.jobs_unfinished as job
    using held
    where job.id = held.id and $3::boolean and job.crashes + 1 >= 3
    returning  -- by name: somebody's own column may be named like the last
        job.id, job.task, job.payload, job.queue, job.priority, job.run_at, job.max_attempts, job.timeout, job.unique_key,
        job.tenant_id, job.correlation_id, job.submitted_by, job.attempt, job.failures, job.crashes, job.enqueued_at,
        job.started_at, job.supervisor, job.pool,
        greatest(clock_timestamp(), job.started_at) as ended_at  -- the clock may have been set back
),
kept as (
    insert into pushq.jobs (
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        submitted_by, status, attempt, failures, crashes, enqueued_at, started_at, finished_at, supervisor, pool, token,
        error, traceback, result, finished_on)
    select
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        submitted_by, 'failed', attempt, failures, crashes + 1, enqueued_at, started_at, ended_at, supervisor, pool,
        null, format('ProcessDied: the process that ran the job died (crash %s of 3)', crashes + 1), null, null,
        (select pushq.current_day())
    from failed
),
requeued as (
    update pushq.jobs_unfinished as job
    set status = 'queued',
        token = null,
        crashes = crashes + $3::int,
        error = case when $3
            then format('ProcessDied: the process that ran the job died (crash %s of 3)', crashes + 1)
            else error end,
        traceback = case when not $3 then traceback end
    from held
    where job.id = held.id and not ($3 and job.crashes + 1 >= 3)
    returning job.id, job.queue, job.task, job.crashes
),
ended as (
    select
        queue, task, outcome, run_bucket, wait_bucket,
        count(*) as jobs, sum(run_seconds) as run_seconds, sum(wait_seconds) as wait_seconds
    from (
        select
            queue, task, 'failed' as outcome,
            pushq.bucket(ended_at - started_at, pushq.run_bounds()) as run_bucket,
            pushq.bucket(pushq.waited(run_at, enqueued_at, started_at), pushq.wait_bounds()) as wait_bucket,
            extract(epoch from ended_at - started_at) as run_seconds,
            extract(epoch from pushq.waited(run_at, enqueued_at, started_at)) as wait_seconds
        from failed
        union all
        select queue, task, 'requeued', -1, -1, 0, 0
        from requeued
        where $3
    ) as attempt
    group by queue, task, outcome, run_bucket, wait_bucket
),
tallied as (
    insert into pushq.tally_log (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds)
    select
        case when has_label then queue else '_other' end, case when has_label then task else '_other' end,
        outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds
    from (select *, pushq.label(queue, task) as has_label from ended offset 0) as labelled  -- asked once a row
),
rung as (
    select pushq.ring_if_idle(queue)
    from (select distinct queue from requeued) as queue
)
select taken.id, taken.queue, taken.task, taken.status, taken.crashes
from (
    select id, queue, task, 'queued' as status, crashes from requeued
    union all
    select id, queue, task, 'failed', crashes + 1 from failed
) as taken
cross join (select count(*) from rung) as ringing
