-- The supervisors as a sweeper sees them: counters, leases in seconds, and whether each lease has run out by the database's
-- clock. A lease that ends further ahead than a lease is long was given before the clock was set back, and counts as run out.
-- A supervisor without a row that still holds running jobs is shown as expired, with counter -1.
select
    name,
    heartbeat,
    lease_until not between clock_timestamp() and clock_timestamp() + lease as expired,
    extract(epoch from lease)::float8 as lease
from pushq.supervisors
union all
select distinct job.supervisor, -1, true, 0::float8
from pushq.jobs_unfinished as job
where job.status = 'running'
and not exists (select from pushq.supervisors where name = job.supervisor)
