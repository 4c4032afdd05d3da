-- Has the next slot of schedules computed anew that were kept while the database's clock was ahead, by more than an hour: they would rest
-- until the clock is there again. Reads all schedules. Returns how many there were.
with ahead as (
    select id
    from pushq.schedules
    where since > clock_timestamp() + interval '1 hour'
    order by id
    for no key update skip locked
),
righted as (
    update pushq.schedules as schedule
    set next_at = null, error = null, since = clock_timestamp()
    from ahead
    where schedule.id = ahead.id
    returning schedule.id
)
select count(*)::int as righted from righted
