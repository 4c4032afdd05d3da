-- Folds the tallies that batches have appended into the sums. Any number of sweepers may do this at once: each takes
-- entries of its own, and all add to the sums in one order. Returns the number of entries folded.
with taken as (
    delete from pushq.tally_log
    where ctid = any(array(select ctid from pushq.tally_log limit 20000 for update skip locked))
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
