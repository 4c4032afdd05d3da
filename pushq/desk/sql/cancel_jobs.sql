-- As retry_jobs.sql, with pushq.cancel().
with still as materialized (
    select job.id
    from unnest($1::uuid[], $2::date[]) as found (id, day)
    join pushq.jobs as job on job.id = found.id and job.finished_on = found.day
    where job.status = $3
    order by job.id
)
select id, pushq.cancel(id) as did from still
