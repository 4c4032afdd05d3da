-- Takes up to 1,000 running jobs away from the supervisors $1, and makes the jobs due at once. Returns each job's new status.
-- $2: the number of a pool, or null for every pool. $3: true charges each job a crash, and the last crash allowed fails the
-- job; false releases the jobs at no charge. $4: true spares supervisors that have a row, since a supervisor that was declared
-- dead and has sent a heartbeat since keeps its jobs, old and new. $5: ids of jobs, or null for every job. Rows that a pool is
-- finishing at this moment are skipped. A job that is being cancelled ends as cancelled.
with seen as materialized (
    select id, token
    from pushq.jobs_unfinished as job
    where status = 'running' and supervisor = any($1::text[]) and ($2::int is null or pool = $2)
    and ($5::uuid[] is null or id = any($5))
    and not ($4 and exists (select from pushq.supervisors where name = job.supervisor))
),
held as materialized (
    select
        job.id, job.token, job.queue, job.task, job.crashes + $3::boolean::int as crashes,
        $3 and job.crashes + 1 >= pushq.most_crashes() as is_fatal,
        job.apart is not distinct from 'cancelling' as is_cancelled
    from (select id, token from seen order by id offset 0) as seen
    cross join lateral (
        select *
        from pushq.jobs_unfinished as its
        where its.id = seen.id and its.token = seen.token  -- still the same claim, now under the row lock
        for update skip locked
    ) as job
    limit 1000
),
ended as (
    select pushq.end_jobs(
        array_agg(id), array_agg(token), null, null, array_agg(case when is_cancelled then 'cancelled' else 'crashed' end),
        array_agg(case when not is_cancelled then pushq.crash_error(crashes) end), null, null)
    from held
    where is_fatal or is_cancelled
    having count(*) > 0
),
requeued as (
    update pushq.jobs_unfinished as job
    set status = 'queued',
        token = null,
        crashes = job.crashes + $3::boolean::int,
        error = case when $3 then pushq.crash_error(job.crashes + 1) else job.error end,
        traceback = case when not $3 then job.traceback end
    where job.id = any(array(select id from held where not is_fatal and not is_cancelled))
    returning job.id, job.queue, job.task, job.crashes, job.tenant_id, job.attempt, job.error
),
tallied as (
    select pushq.tally_back('requeued', array_agg(queue), array_agg(task)) from requeued where $3
),
rung as (
    select pushq.ring_if_idle(queue)
    from (select distinct queue from requeued) as queue
),
gave_units as (
    select pushq.ring_all_if_idle() from requeued having count(*) >= 0
),
noted as (
    select pushq.note_changes(
        null, '{}', array_agg(id), array_agg(tenant_id), array_agg(attempt), '{}',
        array_agg(case when $3 then 'requeued' else 'released' end), '{}', array_agg(case when $3 then error end), '{}',
        pushq.actor())
    from requeued
    where $3 or pushq.is_noted(queue, task, tenant_id)
    having count(*) > 0
)
select taken.id, taken.queue, taken.task, taken.status, taken.crashes
from (
    select id, queue, task, 'queued' as status, crashes from requeued
    union all
    select id, queue, task, case when is_cancelled then 'cancelled' else 'failed' end, crashes
    from held
    where is_fatal or is_cancelled
) as taken
cross join (select count(*) from ended) as ending
cross join (select count(*) from tallied) as tallying
cross join (select count(*) from rung) as ringing
cross join (select count(*) from gave_units) as giving
cross join (select count(*) from noted) as noting
