-- Schedules whose slot is due within $2 seconds: the first $3, and the last $3, so that those which are due now are found beside any
-- backlog. $1: an instant before which no slot is due, or null. due_in: seconds until the slot is due, or is tried again;
-- is_retry: whether it was refused before.
with due as (
    (
        select id
        from pushq.schedules
        where paused_at is null and next_at is not null
        and coalesce(retry_at, next_at) >= coalesce($1::timestamptz, '-infinity')
        and coalesce(retry_at, next_at) <= now() + $2::float8 * interval '1 second'
        order by coalesce(retry_at, next_at)
        limit $3
    )
    union
    (
        select id
        from pushq.schedules
        where paused_at is null and next_at is not null
        and coalesce(retry_at, next_at) >= coalesce($1::timestamptz, '-infinity')
        and coalesce(retry_at, next_at) <= now() + $2::float8 * interval '1 second'
        order by coalesce(retry_at, next_at) desc
        limit $3
    )
)
select
    schedule.id, schedule.cron, schedule.zone, schedule.every, schedule.missed, schedule.next_at,
    extract(epoch from coalesce(schedule.retry_at, schedule.next_at) - clock.now)::float8 as due_in,
    schedule.retry_at is not null as is_retry,
    clock.now
from due
join pushq.schedules as schedule on schedule.id = due.id and schedule.next_at is not null
cross join (select clock_timestamp() as now offset 0) as clock
order by coalesce(schedule.retry_at, schedule.next_at)
