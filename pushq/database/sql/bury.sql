-- Declares the supervisors $1 dead, if their counters still stand at $2 and their leases have run out. Returns the names.
delete from pushq.supervisors as supervisor
using unnest($1::text[], $2::bigint[]) as seen (name, heartbeat)
where supervisor.name = seen.name and supervisor.heartbeat = seen.heartbeat
and supervisor.lease_until < clock_timestamp()
returning supervisor.name
