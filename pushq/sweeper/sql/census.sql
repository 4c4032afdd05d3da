-- Counts the unfinished jobs, unless another sweeper is counting, or the last census is recent: less than 15 seconds old, or
-- less than a hundred times its own duration. Returns the number of jobs, or no row if nothing was counted.
with turn as materialized (
    select only_row
    from pushq.census_clock
    where taken_at < now() - greatest(interval '15 seconds', took * 100)
    for update skip locked
),
clock as (  -- the row may be missing: a test suite empties every table, a restore may bring the schema alone
    insert into pushq.census_clock (only_row)
    select true where not exists (select from pushq.census_clock)
    on conflict do nothing
),
counted as materialized (
    select
        coalesce(known.name, '_other') as queue,
        job.status,
        count(*) as jobs,
        min(greatest(job.run_at, job.enqueued_at)) filter (where job.status = 'queued' and job.run_at <= now())
            as oldest_due_at
    from pushq.jobs_unfinished as job
    left join pushq.queues as known on known.name = job.queue and known.served_since is not null
    where exists (select from turn)
    group by 1, 2
),
forgotten as (
    delete from pushq.census
    where exists (select from turn) and (queue, status) not in (select queue, status from counted)
),
written as (
    insert into pushq.census (queue, status, jobs, oldest_due_at)
    select queue, status, jobs, oldest_due_at from counted order by queue, status
    on conflict (queue, status) do update set jobs = excluded.jobs, oldest_due_at = excluded.oldest_due_at
),
running as materialized (
    select
        coalesce(label.queue, '_other') as queue, coalesce(label.task, '_other') as task,
        min(job.started_at) as oldest_started_at
    from pushq.jobs_unfinished as job
    left join pushq.labels as label on label.queue = job.queue and label.task = job.task
    where job.status = 'running' and exists (select from turn)
    group by 1, 2
),
ended as (
    delete from pushq.census_running
    where exists (select from turn) and (queue, task) not in (select queue, task from running)
),
noted as (
    insert into pushq.census_running (queue, task, oldest_started_at)
    select queue, task, oldest_started_at from running order by queue, task
    on conflict (queue, task) do update set oldest_started_at = excluded.oldest_started_at
)
update pushq.census_clock
set taken_at = now(), took = clock_timestamp() - now()
from (select coalesce(sum(jobs), 0)::bigint as jobs from counted) as done
where exists (select from turn)
returning done.jobs
