-- Surveys supervisor $1. pools: the numbers of the pools under which jobs run. suspects: how many suspects are due whose needs are
-- free, counted up to $4. suspect_due_in: seconds until the next suspect is due, null when none waits. A suspect is a job that has
-- killed two processes, of a task in $3, in a queue of $2 that is not paused. Among more than a thousand suspects that wait, the next
-- is looked for in a thousand. has_webhooks: whether there is a webhook that is not paused, or a delivery that is queued.
-- has_schedules: whether there is a schedule.
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
    cardinality(pushq.choose_fitting(pushq.due_suspects($2::text[], $3::text[], '{}'), $4, $4)) as suspects,
    extract(epoch from (
        select min(run_at) from (select run_at from suspect where run_at > now() limit 1000) as due_later
    ) - now())::float8 as suspect_due_in,
    exists (select from pushq.webhooks where paused_at is null)
    or exists (
        select from pushq.jobs_unfinished
        where status = 'queued' and apart is null and priority = 0 and queue collate "C" = 'pushq.webhooks'
    )
    or exists (
        select from pushq.jobs_unfinished where status = 'queued' and apart = 'solo' and queue = 'pushq.webhooks'
    ) as has_webhooks,
    exists (select from pushq.schedules) as has_schedules
