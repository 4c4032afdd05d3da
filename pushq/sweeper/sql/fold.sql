-- Folds up to $1 of the tallies that batches have appended into the sums. Any number of sweepers may do this at once: where
-- another is at the first entry already, this one leaves them all to it; else the two would wait for each other's sums,
-- which all add to in one order. Returns the number of entries folded.
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
select count(*)::int as entries from taken
