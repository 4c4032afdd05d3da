-- A job that changes while a claim makes up its mind is passed over.
--
-- Theory of operation. A claim of jobs in lanes guesses, waits at turnstiles, counts, and locks, each in a snapshot of its own. Between
-- two of them somebody may stamp a job with a new limit, edit its needs, put it off, or move it to another queue. A claim that locked the
-- job all the same would hold units that nobody has counted, or run the job too soon. So pushq.lock_fitting() notes which version of each
-- row has been seen, and locks no other. What was looked for before is looked at once more when the row is locked, since then it stays as
-- it is: pushq.as_wanted(). Whoever changes the needs of a job rings, so that the job is not forgotten.

insert into pushq.migrations (version, name) values (28, '0028_as_seen');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 28;

-- Locks the queued ones of the jobs that no other session has locked, in the given order: at most `most`. seen, versions: the rows as they
-- were seen, by xmin. A row that is another one now is passed over.
create function pushq.lock_queued(ids uuid[], most int, seen uuid[], versions xid[]) returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    locked uuid[] := '{}';
    tried int := 0;
    step int;
begin
    while cardinality(locked) < lock_queued.most and tried < coalesce(cardinality(lock_queued.ids), 0) loop
        step := lock_queued.most - cardinality(locked);
        locked := locked || array(
            select job.id
            from (
                select
                    given.id, given.place, lock_queued.versions[array_position(lock_queued.seen, given.id)] as version
                from unnest(lock_queued.ids[tried + 1:tried + step]) with ordinality as given (id, place)
            ) as given
            cross join lateral (
                select its.id
                from pushq.jobs_unfinished as its
                where its.id = given.id and its.status = 'queued' and its.xmin = given.version
                for no key update skip locked
            ) as job
            order by given.place);
        tried := tried + step;
    end loop;
    return locked;
end
$$;

create or replace function pushq.lock_fitting(ids uuid[], most int, most_holding int) returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    seen uuid[];
    versions xid[];
    all_names text[];
    names text[];
    chosen uuid[];
    has_rates boolean;
begin
    if coalesce(cardinality(lock_fitting.ids), 0) = 0 or lock_fitting.most < 1 then
        return '{}';
    end if;
    with its as materialized (
        select job.id, job.xmin as version, job.needs from pushq.jobs_unfinished as job where job.id = any(lock_fitting.ids)
    )
    select
        array_agg(its.id), array_agg(its.version),
        array(
            select distinct jsonb_object_keys(wanted.needs)
            from (select distinct its.needs from its where its.needs is not null) as wanted)
    into seen, versions, all_names
    from its;
    if cardinality(all_names) = 0 then
        return pushq.lock_queued(lock_fitting.ids, lock_fitting.most, seen, versions);
    end if;
    select array_agg(rule.name), bool_or(rule.rate is not null) into names, has_rates
    from pushq.rules(all_names) as rule
    where rule.capacity is not null or rule.rate is not null;
    if names is not null and not pushq.lock_turnstiles(names) then
        return '{}';
    end if;
    -- From here on each statement has a new snapshot.
    chosen := pushq.lock_queued(
        pushq.choose_fitting(lock_fitting.ids, lock_fitting.most, lock_fitting.most_holding), lock_fitting.most, seen, versions);
    if has_rates then
        perform pushq.spend_tokens(chosen);
    end if;
    return chosen;
end
$$;

-- Those of the jobs, whose rows are locked, that may run now: of these queues and tasks, due, and apart in one of these ways.
create function pushq.as_wanted(ids uuid[], queues text[], tasks text[], due_by timestamptz, apart text[]) returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if cardinality(as_wanted.ids) = 0 then
        return as_wanted.ids;
    end if;
    return array(
        select job.id
        from unnest(as_wanted.ids) with ordinality as given (id, place)
        cross join lateral (
            select its.id
            from pushq.jobs_unfinished as its
            where its.id = given.id and its.queue = any(as_wanted.queues) and its.run_at <= as_wanted.due_by
            and (as_wanted.tasks is null or its.task = any(as_wanted.tasks)) and coalesce(its.apart, '') = any(as_wanted.apart)
            offset 0
        ) as job
        order by given.place);
end
$$;

do $$
begin
    drop function pushq.lock_queued(uuid[], int);
    execute replace(
        pg_get_functiondef(
            'pushq.lock_in_turn(text[], boolean, text[], text[], int, int, timestamptz, text[], text[], int[])'::regprocedure),
        'return locked;', 'return pushq.as_wanted(
        locked, lock_in_turn.queues, lock_in_turn.tasks, lock_in_turn.due_by, ''{"",lane,fair}'');');
    execute replace(replace(
        pg_get_functiondef('pushq.lock_suspect(text, text[], text)'::regprocedure),
        'return pushq.lock_fitting(array(', 'return pushq.as_wanted(pushq.lock_fitting(array('),
        'limit 20), 1, 1);', 'limit 20), 1, 1), array[lock_suspect.queue], lock_suspect.tasks, clock_timestamp(), ''{solo}'');');
    execute replace(
        pg_get_functiondef('pushq.set_lane()'::regprocedure),
        'perform pushq.ring_all_if_idle();  -- the job needs something no more, or fewer units',
        'perform pushq.ring_all_if_idle();  -- the job needs something no more, or fewer units
    elsif tg_op = ''UPDATE'' and new.needs is distinct from old.needs then
        perform pushq.ring_if_idle(new.queue);  -- a claim may have passed over the job');
    -- A limit may be gone again by now.
    execute replace(
        pg_get_functiondef('pushq.stamp(uuid, int)'::regprocedure),
        'set needs = job.needs where job.id = any(ids)', 'set needs = job.needs
    where job.id = any(ids) and (
        job.needs is distinct from pushq.all_needs(
            pushq.as_object(pushq.own_needs(job.needs)), job.limit_key, job.affinity, job.queue, job.task, job.tenant_id)
        or nullif(job.share, '''') is distinct from pushq.share(job.queue, job.tenant_id, job.limit_key))');
end
$$;
