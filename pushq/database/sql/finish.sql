-- Writes the outcomes of a batch of attempts; each counts only if its job is still held under its token. Ids $1, tokens $2,
-- how many seconds ago they began $3 and ended $4, kinds $5 (succeeded, failed, cancelled: the job is finished; retried,
-- snoozed, released: it goes on), delays in seconds $6, errors $7, tracebacks $8, results as JSON text $9. Of the last five,
-- one that says nothing new of any job (all succeeded, at once, without error or result) may be empty. Returns the places in
-- the batch, from 1, of those that were accepted, or null for all. (Not the ids: a batch may hold outcomes of two claims of one
-- job.) How long a run took is the worker's word: the server's clock may have been set meanwhile.
--
-- A finished job's row is deleted here and inserted into a day. (An UPDATE that moves the row raises an error at whoever
-- waits for its lock; after a delete they find no row and change nothing.) Rows are locked in the order of their ids, so
-- that of two batches that overlap one waits for the other, and never each for the other.
with outcome as (
    select id, token, began, ended, coalesce(kind, 'succeeded') as kind, delay, error, traceback, result, place::int
    from unnest(
        $1::uuid[], $2::uuid[], $3::float8[], $4::float8[], $5::text[], $6::float8[], $7::text[], $8::text[], $9::text[]
    ) with ordinality as outcome (id, token, began, ended, kind, delay, error, traceback, result, place)
    order by id
),
finished as (
    delete from pushq.jobs_unfinished as job
    using outcome
    where job.id = outcome.id and job.token = outcome.token
    and outcome.kind in ('succeeded', 'failed', 'cancelled')
    returning  -- by name: somebody's own column may be named like one of these
        job.id, job.task, job.payload, job.queue, job.priority, job.run_at, job.max_attempts, job.timeout, job.unique_key,
        job.tenant_id, job.correlation_id, job.submitted_by, job.attempt, job.failures, job.crashes, job.enqueued_at,
        job.supervisor, job.pool, job.token, outcome.place, outcome.kind, outcome.error as last_error,
        outcome.traceback as last_traceback, outcome.result as returned,
        greatest(clock_timestamp() - outcome.began * interval '1 second', job.started_at) as began_at,
        (outcome.began - outcome.ended) * interval '1 second' as ran
),
kept as (
    insert into pushq.jobs (
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        submitted_by, status, attempt, failures, crashes, enqueued_at, started_at, finished_at, supervisor, pool, token,
        error, traceback, result, finished_on)
    select
        id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
        submitted_by, kind, attempt, failures + (kind = 'failed')::int, crashes, enqueued_at, began_at, began_at + ran,
        supervisor, pool, token, last_error, last_traceback, returned::jsonb, (select pushq.current_day())
    from finished
),
going_on as (
    update pushq.jobs_unfinished as job
    set status = 'queued',
        token = null,
        run_at = case when outcome.kind = 'released' then job.run_at
            else clock_timestamp() + coalesce(outcome.delay, 0) * interval '1 second' end,
        failures = failures + (outcome.kind = 'retried')::int,
        error = coalesce(outcome.error, job.error),
        traceback = case when outcome.error is null then job.traceback else outcome.traceback end
    from outcome
    where job.id = outcome.id and job.token = outcome.token
    and outcome.kind in ('retried', 'snoozed', 'released')
    returning outcome.place, job.queue, job.task, outcome.kind
),
ended as (
    select
        queue, task, kind,
        pushq.bucket(ran, pushq.run_bounds()) as run_bucket,
        pushq.bucket(waited, pushq.wait_bounds()) as wait_bucket,
        count(*) as jobs,
        extract(epoch from sum(ran)) as run_seconds,
        extract(epoch from sum(waited)) as wait_seconds
    from (
        select queue, task, kind, ran, pushq.waited(run_at, enqueued_at, began_at) as waited
        from finished
    ) as finished
    group by queue, task, kind, run_bucket, wait_bucket
    union all
    select queue, task, 'retried', -1, -1, count(*), 0, 0
    from going_on
    where kind in ('retried', 'snoozed')
    group by queue, task
),
tallied as (
    insert into pushq.tally_log (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds)
    select
        case when has_label then queue else '_other' end, case when has_label then task else '_other' end,
        kind, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds
    from (
        select ended.*, label.task is not null or pushq.label(ended.queue, ended.task) as has_label
        from ended
        left join pushq.labels as label on label.queue = ended.queue and label.task = ended.task
        offset 0  -- asked once a row
    ) as labelled
),
rung as (
    select pushq.ring_if_idle(queue)
    from (select distinct queue from going_on) as queue
)
select case when count(*) < cardinality($1::uuid[]) then coalesce(array_agg(accepted.place), '{}') end as places
from (select place from finished union all select place from going_on) as accepted
cross join (select count(*) from rung) as ringing
