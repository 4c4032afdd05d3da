-- The jobs $1 that still run, each under its token in $2: asked when an outcome changed no row.
select outcome.id, outcome.token
from unnest($1::uuid[], $2::uuid[]) as outcome (id, token)
cross join lateral (
    select from pushq.jobs_unfinished as job where job.id = outcome.id and job.token = outcome.token offset 0
) as held
