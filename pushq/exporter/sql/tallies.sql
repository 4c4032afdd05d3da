-- The counters: folded tallies and the log, in one snapshot. A row for each queue, task and outcome: the number of jobs, the
-- seconds run and waited in total, and the number of jobs in each bucket. Each pair of labels has a row for every outcome, also
-- for outcomes that no job has had.
with entry as (
    select * from pushq.tallies
    union all
    select * from pushq.tally_log
    union all
    select queue, task, outcome, -1, -1, 0, 0, 0
    from pushq.labels
    cross join unnest(array['succeeded', 'failed', 'cancelled', 'retried', 'requeued']) as outcome
),
counted as (
    select
        queue, task, outcome, run_bucket, wait_bucket, grouping(wait_bucket) = 1 as are_runs,
        sum(jobs)::bigint as jobs, sum(run_seconds) as run_seconds, sum(wait_seconds) as wait_seconds
    from entry
    group by grouping sets ((queue, task, outcome, run_bucket), (queue, task, outcome, wait_bucket))
)
select
    queue, task, outcome,
    (sum(jobs) filter (where are_runs))::bigint as jobs,
    sum(run_seconds) filter (where are_runs) as run_seconds,
    sum(wait_seconds) filter (where are_runs) as wait_seconds,
    array_agg(run_bucket order by run_bucket) filter (where run_bucket >= 0) as run_buckets,
    array_agg(jobs order by run_bucket) filter (where run_bucket >= 0) as run_jobs,
    array_agg(wait_bucket order by wait_bucket) filter (where wait_bucket >= 0) as wait_buckets,
    array_agg(jobs order by wait_bucket) filter (where wait_bucket >= 0) as wait_jobs
from counted
group by queue, task, outcome
order by queue, task, outcome
