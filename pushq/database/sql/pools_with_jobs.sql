-- The pools of supervisor $1 under whose numbers jobs run.
select distinct pool
from pushq.jobs_unfinished
where status = 'running' and supervisor = $1
