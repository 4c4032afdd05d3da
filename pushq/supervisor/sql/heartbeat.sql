-- The heartbeat of supervisor $1 on host $2, process $3, with $5 workers: renews the lease for $4 seconds. Returns whether the
-- lease had run out, and true for the first heartbeat: the pools then register and look again at once. The clock is read late,
-- because the statement may have waited for a lock.
with before as (
    select lease_until < clock_timestamp() as lapsed from pushq.supervisors where name = $1
)
insert into pushq.supervisors as supervisor (name, host, pid, lease, lease_until, workers)
values (
    $1, $2, $3, $4::float8 * interval '1 second', clock_timestamp() + $4::float8 * interval '1 second', $5)
on conflict (name) do update
set heartbeat = supervisor.heartbeat + 1, lease = excluded.lease, lease_until = excluded.lease_until,
    workers = excluded.workers
returning coalesce((select lapsed from before), true) as lapsed
