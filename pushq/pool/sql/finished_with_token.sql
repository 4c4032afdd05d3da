-- Which of the jobs $1 are finished under the tokens $2, each with its own: for when the reply to their finish was lost.
select job.id, job.token
from unnest($1::uuid[], $2::uuid[]) as outcome (id, token)
join pushq.jobs as job on job.id = outcome.id and job.token = outcome.token
where job.finished_on < 'infinity'
