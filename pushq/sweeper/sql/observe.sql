-- The supervisors as a sweeper sees them: counters, leases in seconds, and whether each lease has run out by the database's
-- clock. A lease that ends further ahead than a lease is long was given before the clock was set back, and counts as run out.
-- A supervisor without a row that still holds running jobs is shown as expired, with counter -1.
--
-- A guest whose lease has run out is warned (see 0009_guests), and deleted if the guest holds no job. A guest that was warned,
-- and whose new lease has run out too, is shown as expired, with lease 0: nobody need watch the counter.
--
-- The pools of jobs that are being cancelled are told again, since a message may be lost.
with lapsed as materialized (
    select
        guest.name,
        exists (
            select from pushq.jobs_unfinished as job where job.status = 'running' and job.supervisor = guest.name
        ) as holds_jobs
    from pushq.supervisors as guest
    where guest.pid <= 0 and guest.lease_until not between clock_timestamp() and clock_timestamp() + guest.lease
    for update of guest skip locked
),
warned as (
    update pushq.supervisors as guest set pid = -1, lease_until = clock_timestamp() + guest.lease
    from lapsed
    where guest.name = lapsed.name and guest.pid = 0 and lapsed.holds_jobs
),
gone as (
    delete from pushq.supervisors as guest using lapsed where guest.name = lapsed.name and not lapsed.holds_jobs
),
recalled_again as (
    select pushq.recall(job.id, job.token)
    from pushq.jobs_unfinished as job
    where job.status = 'running' and job.apart = 'cancelling'
)
select
    name,
    heartbeat,
    pid <> 0 and lease_until not between clock_timestamp() and clock_timestamp() + lease as expired,
    case when pid < 0 then 0 else extract(epoch from lease) end::float8 as lease
from pushq.supervisors
cross join (select count(*) from recalled_again) as recalling
union all
select distinct job.supervisor, -1, true, 0::float8
from pushq.jobs_unfinished as job
where job.status = 'running'
and not exists (select from pushq.supervisors where name = job.supervisor)
