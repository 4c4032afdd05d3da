-- The queued jobs of queue $1, task $2, tenant $3 and correlation id $4 (null: any) older than job $5 (null: from the newest),
-- at most $6, the newest first. $7: true returns only jobs of tasks that no supervisor has ever known. is_whole: false if the
-- lines of jobs are more than $9, or their jobs more than $8, so that the newest may be missing. Without a job, one row whose
-- id is null.
--
-- The indexes of claims lead to the lines: a line holds the jobs of one task in one queue, of priority 0, below or above. A
-- leap must not say `queue = $1`, because PostgreSQL would then begin at the start of the queue.
with recursive ordinary as (
    (
        select job.queue collate "C" as queue, job.task collate "C" as task
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority = 0
        and ($1::text is null or job.queue collate "C" = $1)
        order by job.queue collate "C", job.task collate "C"
        limit 1
    )
    union all
    select following.queue, following.task
    from ordinary
    cross join lateral (
        select job.queue collate "C" as queue, job.task collate "C" as task
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority = 0
        and ($1::text is null or job.queue collate "C" <= $1)
        and (job.queue collate "C", job.task collate "C") > (ordinary.queue, ordinary.task)
        order by job.queue collate "C", job.task collate "C"
        limit 1
    ) as following
),
by_priority as (
    (
        select job.queue collate "C" as queue, sign(job.priority) as side, job.task collate "C" as task
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority <> 0
        and ($1::text is null or job.queue collate "C" = $1)
        order by job.queue collate "C", sign(job.priority), job.task collate "C"
        limit 1
    )
    union all
    select following.queue, following.side, following.task
    from by_priority
    cross join lateral (
        select job.queue collate "C" as queue, sign(job.priority) as side, job.task collate "C" as task
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority <> 0
        and ($1::text is null or job.queue collate "C" <= $1)
        and (job.queue collate "C", sign(job.priority), job.task collate "C")
            > (by_priority.queue, by_priority.side, by_priority.task)
        order by job.queue collate "C", sign(job.priority), job.task collate "C"
        limit 1
    ) as following
),
line as materialized (
    (select queue, 0 as side, task from ordinary limit $9)
    union all
    (select queue, side, task from by_priority limit $9)
),
wanted as materialized (
    select queue, side, task
    from line
    where ($2::text is null or task = $2)
    and (not $7::boolean or not exists (select from pushq.tasks where name = line.task))
),
waiting as materialized (
    select job.id, job.tenant_id, job.correlation_id
    from wanted
    cross join lateral (
        select *
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority = 0
        and job.queue collate "C" = wanted.queue and job.task collate "C" = wanted.task
        limit $8
    ) as job
    where wanted.side = 0
    union all
    select job.id, job.tenant_id, job.correlation_id
    from wanted
    cross join lateral (
        select *
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is null and job.priority <> 0
        and job.queue collate "C" = wanted.queue and sign(job.priority) = wanted.side
        and job.task collate "C" = wanted.task
        limit $8
    ) as job
    where wanted.side <> 0
    union all
    (
        select job.id, job.tenant_id, job.correlation_id
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart is not null
        and ($1::text is null or job.queue = $1) and ($2::text is null or job.task = $2)
        and (not $7::boolean or not exists (select from pushq.tasks where name = job.task))
        limit $8
    )
    limit $8
),
matching as (
    select id
    from waiting
    where ($3::text is null or tenant_id = $3) and ($4::text is null or correlation_id = $4)
    and ($5::uuid is null or id < $5)
    order by id desc
    limit $6
)
select matching.id, date 'infinity' as finished_on, whole.is_whole
from (
    select (select count(*) from line) < $9 and (select count(*) from waiting) < $8 as is_whole
) as whole
left join matching on whole.is_whole
order by matching.id desc
