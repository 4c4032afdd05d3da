-- The schedule named $1 of tenant $2, or of nobody if null; and the time by the database's clock.
select cron, zone, every, paused_at, next_at, error, since, clock_timestamp() as now
from pushq.schedules
where name = $1 and tenant_id is not distinct from $2
