-- Which of the jobs $1 still run under the tokens $2, each under its own: for when their outcomes changed no row.
select job.id, job.token
from unnest($1::uuid[], $2::uuid[]) as outcome (id, token)
join pushq.jobs_unfinished as job on job.id = outcome.id and job.token = outcome.token
