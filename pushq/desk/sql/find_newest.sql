-- Looks at the newest $8 jobs older than job $7 (null: from the newest), of one kind $1: all, unfinished, finished, or
-- unsuccessful (failed and cancelled). Returns the jobs among them with status $2, queue $3, task $4, tenant $5, correlation id
-- $6 and supervisor $10 (null: any), at most $9, the newest first. $11: true returns only queued jobs of tasks that no
-- supervisor has ever known. looked: how many jobs were looked at, in each row; last: the id of the oldest of them. Without a
-- match, one row whose id is null.
--
-- Each kind has an index by id on every partition: no look reads more than $8 rows. Jobs that share an id stay together.
with looked as materialized (
    select
        job.id, job.finished_on, job.status, job.queue, job.task, job.tenant_id, job.correlation_id, job.supervisor
    from pushq.jobs as job
    where ($1 <> 'unfinished' or job.finished_on = 'infinity')
    and ($1 <> 'finished' or job.finished_on < 'infinity')
    and ($1 <> 'unsuccessful' or job.status <> 'succeeded' and job.finished_on < 'infinity')
    and ($7::uuid is null or job.id < $7)
    order by job.id desc
    fetch first $8 rows with ties
),
matching as (
    select id, finished_on
    from looked
    where ($2::text is null or status = $2)
    and ($3::text is null or queue = $3)
    and ($4::text is null or task = $4)
    and ($5::text is null or tenant_id = $5)
    and ($6::text is null or correlation_id = $6)
    and ($10::text is null or supervisor = $10)
    and (not $11::boolean or status = 'queued' and not exists (select from pushq.tasks where name = looked.task))
    order by id desc
    fetch first $9 rows with ties
)
select matching.id, matching.finished_on, whole.looked, whole.last
from (select count(*) as looked, (select id from looked order by id limit 1) as last from looked) as whole
left join matching on true
order by matching.id desc
