-- The supervisors by start. is_alive: the lease is live. lease_seconds: until the lease runs out; negative: since. workers:
-- null if unknown. running: how many jobs a supervisor holds; oldest_seconds: how long the oldest has run. A supervisor without
-- a row that holds jobs is shown as dead, with nulls.
with running as materialized (
    select supervisor as name, count(*) as jobs, min(started_at) as oldest
    from pushq.jobs_unfinished
    where status = 'running'
    group by supervisor
)
select
    name,
    coalesce(supervisor.lease_until > now(), false) as is_alive,
    supervisor.host,
    supervisor.pid,
    supervisor.started_at,
    extract(epoch from supervisor.lease_until - now())::float8 as lease_seconds,
    nullif(supervisor.workers, 0) as workers,
    coalesce(running.jobs, 0) as running,
    extract(epoch from now() - running.oldest)::float8 as oldest_seconds,
    coalesce(supervisor.queues, '{}') as queues,
    coalesce(supervisor.tasks, '{}') as tasks
from pushq.supervisors as supervisor
full join running using (name)
order by supervisor.started_at nulls first, name
limit 1000
