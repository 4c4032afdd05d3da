-- What supervisor $1 looks after beside its pools: under which pools' numbers its jobs run; how many suspects are due, jobs
-- that have killed two processes, counted up to $4; and in how many seconds the next one is, null: none waits, as far as a
-- thousand tell. Suspects are of the queues $2, where they are not paused, and of the tasks $3.
with suspect as (
    select job.run_at
    from pushq.jobs_unfinished as job
    where job.status = 'queued' and job.apart = 'solo' and job.queue in (select name from pushq.open_queues($2::text[]))
    and job.task = any($3::text[])
)
select
    array(
        select distinct pool
        from pushq.jobs_unfinished
        where status = 'running' and supervisor = $1
    ) as pools,
    (select count(*) from (select from suspect where run_at <= now() limit $4) as due)::int as suspects,
    extract(epoch from (
        select min(run_at) from (select run_at from suspect where run_at > now() limit 1000) as due_later
    ) - now())::float8 as suspect_due_in
