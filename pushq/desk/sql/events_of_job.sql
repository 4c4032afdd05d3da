-- The newest $2 events of the job $1, the newest first.
select id, job_id, kind, was, became, attempt, at, actor, error, traceback, detail::text as detail, tenant_id
from pushq.job_events
where job_id = $1
order by id desc
limit $2
