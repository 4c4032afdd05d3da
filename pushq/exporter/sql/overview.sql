-- The number of live supervisors without guests, the names of queues ever served, how many schedules have an error, up to a thousand, for
-- how many seconds the first due slot of a schedule has been due, and the bounds of the histograms in seconds.
select
    (select count(*) from pushq.supervisors where lease_until > now() and pid > 0) as supervisors,
    array(select name from pushq.queues where served_since is not null order by name) as queues,
    (select count(*) from (select from pushq.schedules where error is not null limit 1000) as faulty) as schedules_with_error,
    coalesce((
        select greatest(extract(epoch from now() - next_at), 0)
        from pushq.schedules
        where paused_at is null and next_at is not null
        order by coalesce(retry_at, next_at)
        limit 1
    ), 0)::float8 as schedules_late,
    pushq.run_bounds() as run_bounds,
    pushq.wait_bounds() as wait_bounds
