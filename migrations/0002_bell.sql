-- The bell: an INSERT wakes an idle pool, and costs a busy system almost nothing.
--
-- A transaction that has called NOTIFY commits under one lock for the whole cluster. So the trigger notifies only while
-- somebody is idle: an idle pool writes "somebody is idle until T" into a gate, and the trigger's WHEN reads it. Gates
-- are sequences, because those are not MVCC: a transaction of any isolation level sees the newest value at once. Queues
-- share 64 gates by a hash. How no wake-up is lost: docs/decisions/0002-the-gate.md and pushq/pool/gate.py.

insert into pushq.migrations (version, name) values (2, '0002_bell');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 2;

do $$
begin
    for bucket in 0..63 loop
        execute format('create sequence pushq.%I as bigint minvalue 0', 'gate_' || bucket);
        -- To read a gate is all that a producer's INSERT does.
        execute format('grant select on sequence pushq.%I to public', 'gate_' || bucket);
    end loop;
end
$$;

-- The gate of a queue.
create function pushq.gate(queue text) returns regclass
language sql stable parallel safe
return ('pushq.gate_' || (hashtext(queue) & 63))::regclass;

-- Until when somebody is idle, as the gates count: milliseconds since 1970 by this server's clock.
create function pushq.gate_clock() returns bigint
language sql volatile parallel safe
return (extract(epoch from clock_timestamp()) * 1000)::bigint;

-- Rings for a queue, unless the transaction asked for silence (a two-phase commit cannot have notified) or the
-- cluster's notification queue is filling up: then every notifying commit would soon fail, and the poll must do.
--
-- What a transaction notifies enters that queue at its commit, all together, so that one transaction could fill the queue
-- alone. So it rings for 64 queues by name, which pushq.rung lists until it ends, and beyond them for everybody at once.
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

create function pushq.ring_for_inserted_job() returns trigger
language plpgsql
as $$
begin
    perform pushq.ring_bell(new.queue);
    return null;
end
$$;

-- The gate's test stands in WHEN, so that plpgsql is entered only to ring. The gates are one constant, because the whole
-- expression is read anew by each INSERT: an array of 64 expressions cost as much as all the rest of a row.
do $$
declare
    gates text;
begin
    select string_agg('pushq.gate_' || bucket, ',' order by bucket) into gates
    from generate_series(0, 63) as bucket;
    execute format(
        'create trigger jobs_ring_the_bell '
        'after insert on pushq.jobs '
        'for each row '
        'when (new.status = ''queued'' '
        'and pg_catalog.pg_sequence_last_value((%L::regclass[])[1 + (hashtext(new.queue) & 63)]) '
        '> (extract(epoch from clock_timestamp()) * 1000)::bigint) '
        'execute function pushq.ring_for_inserted_job()', '{' || gates || '}');
end
$$;
-- Also while the session replays a replication stream.
alter table pushq.jobs enable always trigger jobs_ring_the_bell;

-- Rings for queues if somebody may be idle there: for whatever makes a job claimable without inserting a row.
create function pushq.ring_if_idle(queue text) returns boolean
language sql volatile
return case
    when pg_sequence_last_value(pushq.gate(queue)) > pushq.gate_clock() then pushq.ring_bell(queue)
    else false
end;
