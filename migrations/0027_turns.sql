-- Turns: which queues are fair, how long a lane goes on, and which pool is ready for what.

insert into pushq.migrations (version, name) values (27, '0027_turns');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 27;

-- Makes a queue fair by 'tenant' or by 'key', or, by null, no longer fair. Returns 'changed', or 'as before'. Jobs that are queued
-- already get their shares from pushq.stamp().
create function pushq.be_fair(queue text, by text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.queues as known (name, fair) values (be_fair.queue, be_fair.by)
    on conflict (name) do update set fair = excluded.fair where known.fair is distinct from excluded.fair;
    return case when found then 'changed' else 'as before' end;
end
$$;

-- Chooses for how long jobs of a lane may follow one another while others wait. Returns 'changed', or 'as before'.
create function pushq.set_turn(queue text, turn interval) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(set_turn.turn not between interval '0' and interval '1 hour', true) then
        raise invalid_parameter_value using message = format(
            'pushq.set_turn(%L): a turn is 0 to 1 hour, not %s; 0 is strict order', set_turn.queue, coalesce(set_turn.turn::text, 'null'));
    end if;
    insert into pushq.queues as known (name, turn) values (set_turn.queue, set_turn.turn)
    on conflict (name) do update set turn = excluded.turn where known.turn is distinct from excluded.turn;
    return case when found then 'changed' else 'as before' end;
end
$$;


-- Affinities -----------------------------------------------------------------------------------------------------

-- Notes of how many workers of a pool each affinity was the last.
create function pushq.note_affinities(its_supervisor text, its_pool int, affinities text[], workers int[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from pushq.affinities as old
    where old.supervisor = note_affinities.its_supervisor and old.pool = note_affinities.its_pool
    and old.affinity <> all(note_affinities.affinities);
    insert into pushq.affinities as old (supervisor, pool, affinity, workers)
    select host.name, note_affinities.its_pool, now.affinity, now.workers
    from unnest(note_affinities.affinities, note_affinities.workers) as now (affinity, workers)
    join pushq.supervisors as host on host.name = note_affinities.its_supervisor
    order by now.affinity
    on conflict on constraint affinities_pkey do update set workers = excluded.workers where old.workers <> excluded.workers;
end
$$;
