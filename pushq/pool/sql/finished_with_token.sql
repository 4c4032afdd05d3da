-- The jobs $1 that are finished, each under its token in $2: asked when the reply to a finish was lost.
select outcome.id, outcome.token
from unnest($1::uuid[], $2::uuid[]) as outcome (id, token)
cross join lateral (
    select
    from pushq.jobs as job
    where job.id = outcome.id and job.token = outcome.token and job.finished_on < 'infinity'
    offset 0
) as finished
