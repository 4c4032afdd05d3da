-- Retries the jobs with the ids $1, found on the days $2 (infinity: unfinished), of which each still is there with status $3. Returns
-- ids, and what pushq.retry() did. A job that has changed since it was found is left out.
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
select id, pushq.retry(id) as did from still
