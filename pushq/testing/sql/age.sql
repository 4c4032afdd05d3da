-- Makes the jobs older by $1, and what was taken by rates. The days of jobs stay.
with taken as (
    update pushq.tokens set whole_at = whole_at - $1::interval
)
update pushq.jobs
set run_at = run_at - $1::interval, enqueued_at = enqueued_at - $1, started_at = started_at - $1,
    finished_at = finished_at - $1
