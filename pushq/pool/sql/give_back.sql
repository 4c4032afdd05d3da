-- Puts the jobs of a batch back into their queues, each only if still held under its token: ids $1, tokens $2, kinds $3
-- (retried, which counts a failure; snoozed; released, which stays due), delays in seconds $4, errors $5, tracebacks $6.
-- Returns the places in the batch, from 1, of the accepted outcomes, or null for all. Rows are locked in the order of ids,
-- as by pushq.end_jobs().
with outcome as (
    select id, token, kind, delay, error, traceback, place::int
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::float8[], $5::text[], $6::text[])
        with ordinality as outcome (id, token, kind, delay, error, traceback, place)
    order by id
),
going_on as (
    update pushq.jobs_unfinished as job
    set status = 'queued',
        token = null,
        run_at = case when outcome.kind = 'released' then job.run_at
            else clock_timestamp() + outcome.delay * interval '1 second' end,
        failures = failures + (outcome.kind = 'retried')::int,
        error = coalesce(outcome.error, job.error),
        traceback = case when outcome.error is null then job.traceback else outcome.traceback end
    from outcome
    where job.id = outcome.id and job.token = outcome.token
    returning outcome.place, job.queue, job.task, outcome.kind
),
tallied as (
    select pushq.tally_back('retried', array_agg(queue), array_agg(task)) from going_on where kind in ('retried', 'snoozed')
),
rung as (
    select pushq.ring_if_idle(queue)
    from (select distinct queue from going_on) as queue
)
select case when count(*) < cardinality($1::uuid[]) then coalesce(array_agg(going_on.place), '{}') end as places
from going_on
cross join (select count(*) from tallied) as tallying
cross join (select count(*) from rung) as ringing
