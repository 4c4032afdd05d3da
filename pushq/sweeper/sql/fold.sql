-- Folds up to $1 entries of the tallies' log into the sums. Returns the number of entries folded. Any number of sweepers may
-- fold at once: a sweeper that finds the first entry locked leaves all entries to the other, because both would wait for the
-- same sums. Sums are updated in one order, so no two folds deadlock.
--
-- has_rules: whether a queue says how long its jobs are kept. needs_stamped: not 0 if jobs get needs by rules; another number after
-- each change of the rules. Asked here, so that a sweep has no statement more if there are no rules.
with waiting as materialized (
    select ctid from pushq.tally_log limit $1
),
turn as materialized (
    select from pushq.tally_log where ctid = (select ctid from waiting limit 1) for update skip locked
),
taken as (
    delete from pushq.tally_log
    where ctid = any(array(select ctid from waiting where exists (select from turn)))
    returning *
),
folded as (
    insert into pushq.tallies as sums (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds)
    select queue, task, outcome, run_bucket, wait_bucket, sum(jobs), sum(run_seconds), sum(wait_seconds)
    from taken
    group by queue, task, outcome, run_bucket, wait_bucket
    order by queue, task, outcome, run_bucket, wait_bucket
    on conflict (queue, task, outcome, run_bucket, wait_bucket) do update
    set jobs = sums.jobs + excluded.jobs,
        run_seconds = sums.run_seconds + excluded.run_seconds,
        wait_seconds = sums.wait_seconds + excluded.wait_seconds
)
select
    count(*)::int as entries,
    exists (select from pushq.queues where keep is not null or keep_failed is not null) as has_rules,
    coalesce(pg_sequence_last_value('pushq.needs_stamped'), 0) as needs_stamped  -- null in a copy without data
from taken
