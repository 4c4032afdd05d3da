-- The running jobs of queue $1, task $2, tenant $3, correlation id $4 and supervisor $5 (null: any) older than job $6 (null:
-- from the newest), at most $7, the newest first. Reads no more rows than there are running jobs.
with running as materialized (
    select id, queue, task, tenant_id, correlation_id, supervisor
    from pushq.jobs_unfinished
    where status = 'running'
    and ($5::text is null or supervisor = $5)
)
select id, date 'infinity' as finished_on
from running
where ($1::text is null or queue = $1)
and ($2::text is null or task = $2)
and ($3::text is null or tenant_id = $3)
and ($4::text is null or correlation_id = $4)
and ($6::uuid is null or id < $6)
order by id desc
limit $7
