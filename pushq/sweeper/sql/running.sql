-- Up to 1,000 running jobs of the supervisors $1, or only of their pool $2 where it is not null; where $3 is true, only of those
-- who have no row.
select id
from pushq.jobs_unfinished as job
where status = 'running' and supervisor = any($1::text[]) and ($2::int is null or pool = $2)
and not ($3 and exists (select from pushq.supervisors where name = job.supervisor))
limit 1000
