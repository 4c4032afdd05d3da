-- Up to 1,000 running jobs of the supervisors $1. $2: the number of a pool, or null for every pool. $3: true leaves out
-- supervisors that have a row.
select id
from pushq.jobs_unfinished as job
where status = 'running' and supervisor = any($1::text[]) and ($2::int is null or pool = $2)
and not ($3 and exists (select from pushq.supervisors where name = job.supervisor))
limit 1000
