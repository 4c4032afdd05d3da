-- The jobs $1 that still run, each under its token in $2: asked when an outcome changed no row.
select job.id, job.token
from unnest($1::uuid[], $2::uuid[]) as outcome (id, token)
join pushq.jobs_unfinished as job on job.id = outcome.id and job.token = outcome.token
