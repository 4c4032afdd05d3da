-- The counters: what is folded and what is not yet, in one snapshot.
select queue, task, outcome, run_bucket, wait_bucket, sum(jobs)::bigint as jobs, sum(run_seconds) as run_seconds,
    sum(wait_seconds) as wait_seconds
from (select * from pushq.tallies union all select * from pushq.tally_log) as entries
group by queue, task, outcome, run_bucket, wait_bucket
