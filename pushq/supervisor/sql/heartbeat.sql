-- The heartbeat of supervisor $1 on host $2, process $3: its lease holds for $4 more seconds. Returns whether the lease had
-- run out before. At the first heartbeat, true. After a lapse the supervisor's pools register and look again at once.
with before as (
    select lease_until < clock_timestamp() as lapsed from pushq.supervisors where name = $1
)
insert into pushq.supervisors as supervisor (name, host, pid, lease, lease_until)
values ($1, $2, $3, $4::float8 * interval '1 second', clock_timestamp() + $4::float8 * interval '1 second')
on conflict (name) do update
set heartbeat = supervisor.heartbeat + 1, lease = excluded.lease, lease_until = excluded.lease_until
returning coalesce((select lapsed from before), true) as lapsed
