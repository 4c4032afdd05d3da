-- The pools of live supervisors that claim and do not listen, by the names of their sessions, whose middle may be cut out. Pools
-- that began less than ten seconds ago are left out.
with session as materialized (
    select
        substring(application_name from '^pushq pool ([0-9]+) ') as pool,
        right(split_part(application_name, ': ', 1), 20) as owner,
        split_part(application_name, ': ', 2) as purpose,
        backend_start
    from pg_stat_activity
    where application_name ~ '^pushq pool [0-9]+ '
)
select supervisor.name as supervisor, claiming.pool
from pushq.supervisors as supervisor
join session as claiming on claiming.owner = right(supervisor.name, 20) and claiming.purpose = 'claims'
where supervisor.lease_until > now()
and claiming.backend_start < now() - interval '10 seconds'
and not exists (
    select
    from session as listening
    where listening.owner = claiming.owner and listening.pool = claiming.pool and listening.purpose = 'listens')
order by supervisor.name, claiming.pool
limit 100
