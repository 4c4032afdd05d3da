-- Declares the supervisors $1 dead, if their counters still stand at $2 and their leases have run out, as observe.sql sees it.
-- One whose row is locked sends a heartbeat at this moment, or is being declared dead: it is left to the next sweep. Returns
-- the names.
delete from pushq.supervisors
where name = any(array(
    select supervisor.name
    from pushq.supervisors as supervisor
    join unnest($1::text[], $2::bigint[]) as seen (name, heartbeat)
        on seen.name = supervisor.name and seen.heartbeat = supervisor.heartbeat
    where supervisor.lease_until not between clock_timestamp() and clock_timestamp() + supervisor.lease
    for update of supervisor skip locked))
returning name
