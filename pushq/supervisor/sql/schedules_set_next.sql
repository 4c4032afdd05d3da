-- Sets the next slots ($4) of the schedules $1, if their crons $2 and zones $3 are as they were and nobody has been faster, or why there
-- is none ($5). Returns how many were set.
with mine as materialized (
    select schedule.id, given.next_at, given.error
    from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[]) as given (id, cron, zone, next_at, error)
    join pushq.schedules as schedule on schedule.id = given.id
    where schedule.next_at is null and schedule.error is null and schedule.cron = given.cron and schedule.zone = given.zone
    order by schedule.id
    for no key update of schedule skip locked
),
moved as (
    update pushq.schedules as schedule
    set next_at = mine.next_at, error = mine.error
    from mine
    where schedule.id = mine.id
    returning schedule.id
)
select count(*)::int as set from moved
