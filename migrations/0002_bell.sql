-- The bell: an INSERT wakes an idle pool, and costs a busy system almost nothing.
--
-- A transaction that has called NOTIFY commits under one lock for the whole cluster. So the trigger notifies only while a pool
-- is idle. An idle pool writes "a pool is idle until T" into a gate, and the trigger reads the gate. Gates are sequences, because
-- sequences are not MVCC: a transaction of any isolation level sees the newest value at once. Queues share 64 gates by a hash.
-- Why no wake-up is lost: docs/decisions/0002-the-gate.md and pushq/pool/gate.py.

insert into pushq.migrations (version, name) values (2, '0002_bell');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 2;

do $$
begin
    for bucket in 0..63 loop
        execute format('create sequence pushq.%I as bigint minvalue 0', 'gate_' || bucket);
        -- A producer's INSERT reads gates, and does no more.
        execute format('grant select on sequence pushq.%I to public', 'gate_' || bucket);
    end loop;
end
$$;

-- The gate of a queue.
create function pushq.gate(queue text) returns regclass
language sql stable parallel safe
return ('pushq.gate_' || (hashtext(queue) & 63))::regclass;

-- Now, in the unit of gates: milliseconds since 1970 by the server's clock.
create function pushq.gate_clock() returns bigint
language sql volatile parallel safe
return (extract(epoch from clock_timestamp()) * 1000)::bigint;

-- Rings for a queue. Returns false, and does not ring, in two cases. The transaction has set pushq.notify = 'off', since a
-- transaction that notifies cannot be prepared. Or the cluster's notification queue is half full: a full queue fails every
-- notifying commit, so the poll must do.
--
-- A commit puts all notifications of the transaction into the notification queue, which one transaction could fill alone. So a
-- transaction rings for 64 queues by name, listed in the setting pushq.rung, and then once for all pools.
create function pushq.ring_bell(queue text) returns boolean
language plpgsql volatile
as $$
declare
    said pg_catalog.text := pg_catalog.current_setting('pushq.rung', true);
    rung pg_catalog.text[] := case when pg_catalog.length(said) operator(pg_catalog.>) 0 then said else '{}' end;
begin
    if coalesce(pg_catalog.current_setting('pushq.notify', true) operator(pg_catalog.=) 'off', false)
        or pg_catalog.pg_notification_queue_usage() operator(pg_catalog.>=) 0.5 then
        return false;
    end if;
    if queue operator(pg_catalog.=) any (rung) then
        return true;
    elsif pg_catalog.cardinality(rung) operator(pg_catalog.<) 64 then
        perform pg_catalog.set_config('pushq.rung', pg_catalog.array_append(rung, queue)::pg_catalog.text, true);
        perform pg_catalog.pg_notify('pushq', queue);
    else
        perform pg_catalog.pg_notify('pushq', '');
    end if;
    return true;
end
$$;

-- Reads the gate of a new job's queue, and rings if a pool is idle. Names are qualified, since the body is planned under the
-- search_path of the producer. The gates are one constant: to find a gate by its name would cost more than the rest.
do $do$
declare
    gates text;
begin
    select string_agg('pushq.gate_' || bucket, ',' order by bucket) into gates
    from generate_series(0, 63) as bucket;
    execute replace($function$
create function pushq.ring_for_inserted_job() returns trigger
language plpgsql
as $$
begin
    if new.status operator(pg_catalog.=) 'queued'
        and pg_catalog.pg_sequence_last_value(
            ('{gates}'::pg_catalog.regclass[])[1 operator(pg_catalog.+) (
                pg_catalog.hashtext(new.queue) operator(pg_catalog.&) 63)])
            operator(pg_catalog.>) pushq.gate_clock() then
        perform pushq.ring_bell(new.queue);
    end if;
    return null;
end
$$
$function$, '{gates}', '{' || gates || '}');
end
$do$;

-- The trigger has no WHEN: PostgreSQL reads a WHEN anew for every statement, and keeps the body of a function for the session.
create trigger jobs_ring_the_bell
after insert on pushq.jobs_unfinished
for each row execute function pushq.ring_for_inserted_job();
-- Always, also in a session that replays a replication stream.
alter table pushq.jobs_unfinished enable always trigger jobs_ring_the_bell;

-- Rings for a queue if its gate says that a pool is idle. For statements that make a job claimable without an INSERT.
create function pushq.ring_if_idle(queue text) returns boolean
language sql volatile
return case
    when pg_sequence_last_value(pushq.gate(queue)) > pushq.gate_clock() then pushq.ring_bell(queue)
    else false
end;
