-- As find_newest.sql, for failed and cancelled jobs of task $3, which have an index by task and id on every day. Looks at the
-- newest $7 jobs older than job $6 (null: from the newest). Returns the jobs among them with status $1, queue $2, tenant $4,
-- correlation id $5 and supervisor $9 (null: any), at most $8.
--
-- The task is given as a range of one, so that no plan but the index by task and id yields the order.
with looked as materialized (
    select job.id, job.finished_on, job.status, job.queue, job.tenant_id, job.correlation_id, job.supervisor
    from pushq.jobs as job
    where job.status <> 'succeeded' and job.finished_on < 'infinity'
    and job.task >= $3
    and (job.task, job.id) < ($3, coalesce($6::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
    order by job.task desc, job.id desc
    fetch first $7 rows with ties
),
matching as (
    select id, finished_on
    from looked
    where ($1::text is null or status = $1)
    and ($2::text is null or queue = $2)
    and ($4::text is null or tenant_id = $4)
    and ($5::text is null or correlation_id = $5)
    and ($9::text is null or supervisor = $9)
    order by id desc
    fetch first $8 rows with ties
)
select matching.id, matching.finished_on, whole.looked, whole.last
from (select count(*) as looked, (select id from looked order by id limit 1) as last from looked) as whole
left join matching on true
order by matching.id desc
