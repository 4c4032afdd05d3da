-- Up to $1 schedules with an error, by name; and how long the first slot of all has been due, in seconds, if nobody has tried it: null, if
-- none is due.
select
    array(select name || ': ' || error from pushq.schedules where error is not null order by name limit $1) as faulty,
    (
        select extract(epoch from now() - next_at)::float8
        from pushq.schedules
        where paused_at is null and next_at is not null and retry_at is null and next_at <= now()
        order by coalesce(retry_at, next_at)
        limit 1
    ) as late
