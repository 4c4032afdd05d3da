-- The first $1 schedules: those with an error first, then by name. is_declared: whether a live supervisor's code declares the schedule.
select
    id, name, tenant_id, cron, zone, every::text as every, task, queue, missed, paused_at, next_at, last_at, error, retry_at,
    declared_at,
    tenant_id is null and exists (
        select from pushq.supervisors as host
        where host.lease_until > now() and host.schedules @> array[schedule.name::text]
    ) as is_declared
from pushq.schedules as schedule
order by error is null, name, tenant_id
limit $1
