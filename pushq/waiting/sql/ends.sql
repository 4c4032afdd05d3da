-- The jobs $1, of several with one id the one that finished last, an unfinished one before all. running: seconds since the last
-- attempt began; due_in: seconds until the job is due.
select distinct on (job.id)
    job.id, job.task, job.queue, job.status, job.attempt, job.error, job.result::text as result,
    extract(epoch from clock_timestamp() - job.started_at)::float8 as running,
    extract(epoch from job.run_at - clock_timestamp())::float8 as due_in
from pushq.jobs as job
where job.id = any($1::uuid[])
order by job.id, job.finished_on desc, job.finished_at desc
