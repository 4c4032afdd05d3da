-- As retry_jobs.sql, with pushq.cancel().
with still as materialized (
    select found.id
    from unnest($1::uuid[], $2::date[]) as found (id, day)
    cross join lateral (
        select from pushq.jobs as job
        where job.id = found.id and job.finished_on = found.day and job.status = $3
        offset 0
    ) as job
    order by found.id
)
select id, pushq.cancel(id) as did from still
