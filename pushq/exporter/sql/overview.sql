-- The number of live supervisors without guests, the names of queues ever served, and the bounds of the histograms in seconds.
select
    (select count(*) from pushq.supervisors where lease_until > now() and pid > 0) as supervisors,
    array(select name from pushq.queues where served_since is not null order by name) as queues,
    pushq.run_bounds() as run_bounds,
    pushq.wait_bounds() as wait_bounds
