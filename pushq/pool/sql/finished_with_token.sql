-- The jobs $1 that are finished, each under its token in $2: asked when the reply to a finish was lost.
select job.id, job.token
from unnest($1::uuid[], $2::uuid[]) as outcome (id, token)
join pushq.jobs as job on job.id = outcome.id and job.token = outcome.token
where job.finished_on < 'infinity'
