-- Up to $1 schedules whose next slot is to be computed.
select id, cron, zone, since
from pushq.schedules
where paused_at is null and next_at is null and error is null
order by id
limit $1
