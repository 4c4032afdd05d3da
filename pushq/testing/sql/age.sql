-- Makes the jobs older by $1. Their days stay.
update pushq.jobs
set run_at = run_at - $1::interval, enqueued_at = enqueued_at - $1, started_at = started_at - $1,
    finished_at = finished_at - $1
