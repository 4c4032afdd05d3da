-- Declares the supervisors $1 dead, where the counters still stand at $2 and the leases have run out, as in observe.sql.
-- Returns the names. A locked row is skipped: a heartbeat or another sweeper holds the row.
delete from pushq.supervisors
where name = any(array(
    select supervisor.name
    from pushq.supervisors as supervisor
    join unnest($1::text[], $2::bigint[]) as seen (name, heartbeat)
        on seen.name = supervisor.name and seen.heartbeat = supervisor.heartbeat
    where supervisor.pid <> 0 and supervisor.lease_until not between clock_timestamp() and clock_timestamp() + supervisor.lease
    for update of supervisor skip locked))
returning name
