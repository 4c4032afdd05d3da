-- How pools take jobs with needs: 0023_needs explains.

insert into pushq.migrations (version, name) values (24, '0024_lanes');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 24;


-- The ledger -----------------------------------------------------------------------------------------------------

-- What running jobs hold of each name.
create function pushq.held() returns table (name text, units int)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select need.key, sum(need.value::int * holder.jobs)::int
    from (
        select job.needs, count(*) as jobs
        from pushq.jobs_unfinished as job
        where job.status = 'running' and job.needs is not null and job.attempt > 0
        group by job.needs
    ) as holder
    cross join lateral jsonb_each(holder.needs) as need
    group by need.key;
end
$$;

-- What is free of each name that has a rule: units, or null for any number; and the rate, if there is one. most: how much there ever
-- is. whole_at: when the burst will be whole again, null if it is.
create function pushq.free(names text[])
returns table (name text, units int, capacity_left int, most int, rate double precision, burst int, whole_at timestamptz)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- What is held becomes an object, since a join would compare each name with each: pools' sessions make no hashes.
    return query
    select
        rule.name,
        least(
            rule.capacity - coalesce((held.units -> rule.name)::int, 0),
            floor(rule.burst - rule.rate * coalesce(extract(epoch from token.whole_at - clock_timestamp()), 0) + 1e-6)::int),
        rule.capacity - coalesce((held.units -> rule.name)::int, 0),
        least(rule.capacity, case when rule.rate is not null then rule.burst end),
        rule.rate, rule.burst, token.whole_at
    from (select jsonb_object_agg(its.name, its.units) as units from pushq.held() as its) as held
    cross join pushq.rules(free.names) as rule
    left join pushq.tokens as token on rule.rate is not null and token.name = rule.name and token.whole_at > clock_timestamp()
    where rule.capacity is not null or rule.rate is not null;
end
$$;

-- Jobs of strict keys that have begun and are queued again, at most a thousand, due by due_by. queues, tasks: null for all.
create function pushq.begun_in_order(queues text[], tasks text[], due_by timestamptz) returns table (id uuid, limit_key text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not exists (select from pushq.resources where strict) then
        return;
    end if;
    return query
    select job.id, job.limit_key
    from pushq.jobs_unfinished as job
    where job.status = 'queued' and job.needs is not null and job.limit_key is not null and job.attempt > 0 and pushq.is_strict(job.limit_key)
    and job.run_at <= begun_in_order.due_by
    and (begun_in_order.queues is null or job.queue = any(begun_in_order.queues) and job.task = any(begun_in_order.tasks))
    limit 1000;
end
$$;

-- Whether jobs of the key wait for one that has begun and is to go on.
create function pushq.is_strict(key text) returns boolean
language sql stable
begin atomic
    select coalesce(
        (select rule.strict from pushq.resources as rule where rule.name = 'key:' || key),
        (select rule.strict from pushq.resources as rule where rule.name = 'key:*'), false);
end;

-- Whether a job of the key that has not begun must wait for one that has.
create function pushq.must_wait(key text) returns boolean
language sql stable
begin atomic
    select pushq.is_strict(must_wait.key) and exists (
        select
        from pushq.jobs_unfinished as begun
        where begun.status = 'queued' and begun.limit_key collate "C" = must_wait.key and begun.needs is not null and begun.attempt > 0);
end;

-- The names of which nothing is free, so that no job that needs one can run, unless the job has begun before. by_rate: also those whose
-- next unit is a matter of time.
create function pushq.spent_names(by_rate boolean) returns text[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select free.name
        from pushq.free(array(
            select held.name from pushq.held() as held
            union
            select token.name from pushq.tokens as token where spent_names.by_rate and token.whole_at > clock_timestamp()
            union
            select closed.name from pushq.resources as closed where closed.capacity = 0
            union
            select 'queue:' || closed.name from pushq.queues as closed where closed.capacity = 0
        )) as free
        where free.capacity_left < 1 or spent_names.by_rate and free.units < 1
        union
        select 'key:' || begun.limit_key from pushq.begun_in_order(null, null, 'infinity') as begun);
end
$$;


-- Claims ---------------------------------------------------------------------------------------------------------

-- Queued jobs with needs that may fit, in the order in which they should begin: of the queues and the tasks, due by due_by,
-- that need no spent name. Of equally urgent jobs, those that need one of the names `near` come first. A job that lacks only some of its units is listed too, since the job may reserve them.
--
-- First the most urgent jobs are looked at, whatever their lanes: a few more than there is room for. If these lack too much, the
-- search goes on by lanes: the first due job of each task and priority in each lane, up to 2,000 of them, from a lane at random on.
-- A null at the end: there are more.
create function pushq.guess_fitting(
    queues text[], tasks text[], most int, due_by timestamptz, spent text[], near text[])
returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    looked_at int;
    found_ids uuid[];
    more_ids uuid[];
    -- Of many spent names, an object: in an array, each job would look at all of them.
    many_spent jsonb := case when cardinality(guess_fitting.spent) > 50 then
        (select jsonb_object_agg(name, 0) from unnest(guess_fitting.spent) as name) end;
begin
    with recursive level as (
        select open.name as queue, first.priority
        from unnest(guess_fitting.queues) as open (name)
        cross join lateral (
            select job.priority
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart = 'lane' and job.queue = open.name
            order by job.priority
            limit 1
        ) as first
        union all
        select level.queue, following.priority
        from level
        cross join lateral (
            select job.priority
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart = 'lane' and job.queue = level.queue and job.priority > level.priority
            order by job.priority
            limit 1
        ) as following
    ),
    urgent as materialized (
        select job.*
        from (select level.queue, level.priority from level limit 100) as level
        cross join lateral (
            select its.id, its.task, its.priority, its.run_at, its.needs, its.lane
            from pushq.jobs_unfinished as its
            where its.status = 'queued' and its.apart = 'lane' and its.queue = level.queue and its.priority = level.priority
            and its.run_at <= guess_fitting.due_by
            order by its.run_at, its.id
            limit 100 + 2 * guess_fitting.most
        ) as job
        limit 100 + 2 * guess_fitting.most
    ),
    fitting as (
        select urgent.id, urgent.priority, not coalesce(urgent.needs ?| guess_fitting.near, false) as is_far, urgent.run_at
        from urgent
        where urgent.task = any(guess_fitting.tasks)
        and not case
            when many_spent is null then urgent.needs ?| guess_fitting.spent
            else many_spent ?| array(select jsonb_object_keys(urgent.needs))
        end
        order by urgent.priority, is_far, urgent.run_at, urgent.id
        limit 50 + guess_fitting.most
    )
    select
        (select count(*) from urgent),
        array(select fitting.id from fitting order by fitting.priority, fitting.is_far, fitting.run_at, fitting.id)
    into looked_at, found_ids;

    if cardinality(found_ids) >= guess_fitting.most or looked_at < 100 + 2 * guess_fitting.most then
        return found_ids;
    end if;

    with recursive beginning as (
        select lpad(to_hex(floor(random() * 256)::int), 2, '0') collate "C" as lane
    ),
    line as (
        select from_lane.queue, from_lane.until, first.*
        from (
            select open.name as queue, part.from_lane, part.until
            from unnest(guess_fitting.queues) as open (name)
            cross join beginning
            cross join lateral (values (beginning.lane, 'x'), ('', beginning.lane)) as part (from_lane, until)
        ) as from_lane
        cross join lateral (
            select job.id, job.lane, job.task collate "C" as task, job.priority, job.run_at, job.needs
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart = 'lane' and job.queue collate "C" = from_lane.queue and job.share = ''
            and job.lane >= from_lane.from_lane and job.lane < from_lane.until
            order by job.lane, job.task collate "C", job.priority, job.run_at, job.id
            limit 1
        ) as first
        union all
        select line.queue, line.until, following.*
        from line
        cross join lateral (
            select job.id, job.lane, job.task collate "C" as task, job.priority, job.run_at, job.needs
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart = 'lane' and job.queue collate "C" = line.queue and job.share = ''
            and (job.lane, job.task collate "C", job.priority) > (line.lane, line.task, line.priority) and job.lane < line.until
            order by job.lane, job.task collate "C", job.priority, job.run_at, job.id
            limit 1
        ) as following
    ),
    looked as materialized (
        select * from line limit 2000
    ),
    fitting as materialized (
        select
            line.queue, line.lane, line.task, line.priority, not coalesce(line.needs ?| guess_fitting.near, false) as is_far
        from looked as line
        where line.run_at <= guess_fitting.due_by and line.task = any(guess_fitting.tasks)
        and not case
            when many_spent is null then line.needs ?| guess_fitting.spent
            else many_spent ?| array(select jsonb_object_keys(line.needs))
        end
        order by line.priority, is_far, line.run_at, line.id
        limit 50 + guess_fitting.most
    )
    select array_agg(job.id order by job.priority, fitting.is_far, job.run_at, job.id), (select count(*) from looked)
    into more_ids, looked_at
    from fitting
    cross join lateral (
        select its.id, its.priority, its.run_at
        from pushq.jobs_unfinished as its
        where its.status = 'queued' and its.apart = 'lane' and its.queue collate "C" = fitting.queue and its.share = ''
        and its.lane = fitting.lane and its.task collate "C" = fitting.task and its.priority = fitting.priority
        and its.run_at <= guess_fitting.due_by and its.id <> all(found_ids)
        order by its.run_at, its.id
        limit greatest(1, guess_fitting.most - cardinality(found_ids))
    ) as job;
    return found_ids || more_ids || case when looked_at >= 2000 then array[null::uuid] end;
end
$$;

-- The names of which less is free than some of the queued jobs need.
create function pushq.lacked_names(ids uuid[]) returns text[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select distinct free.name
        from (
            select distinct job.needs from pushq.jobs_unfinished as job where job.id = any(lacked_names.ids) and job.needs is not null
        ) as wanted
        cross join lateral jsonb_each(wanted.needs) as need
        join pushq.free(array(
            select distinct jsonb_object_keys(its.needs)
            from pushq.jobs_unfinished as its
            where its.id = any(lacked_names.ids) and its.needs is not null
        )) as free on free.name = need.key and free.units < need.value::int);
end
$$;

-- Queued jobs of a fair queue that may fit, round the shares: one job of each, or as many as the weight of a tenant says. At most `most`,
-- and some more, since others may lock them. The round begins after the share `after`, of which `taken` jobs have been taken in
-- turn. may_hold: whether jobs with needs are wanted. At most 1,000 shares are looked at. A null at the end: there are more.
create function pushq.guess_in_ring(
    its_queue text, tasks text[], most int, due_by timestamptz, spent text[], may_hold boolean, after text, taken int)
returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    is_by_tenant boolean := (select known.fair = 'tenant' from pushq.queues as known where known.name = guess_in_ring.its_queue);
    wanted int := guess_in_ring.most + guess_in_ring.most / 4 + 10;
    rounds int := 1;
    found_ids uuid[];
    most_sharers constant int := 1000;
    sharers_with_more int;
    are_more boolean;
    many_spent jsonb := case when cardinality(guess_in_ring.spent) > 50 then  -- as in guess_fitting
        (select jsonb_object_agg(name, 0) from unnest(guess_in_ring.spent) as name) end;
begin
    loop
        with recursive ring as (
            (
                select 1 as place, first.share, first.is_second_part
                from (
                    (
                        select job.share, false as is_second_part
                        from pushq.jobs_unfinished as job
                        where job.status = 'queued' and job.apart = 'fair' and job.queue collate "C" = guess_in_ring.its_queue
                        and job.share >= guess_in_ring.after and job.share > ''
                        order by job.share
                        limit 1
                    )
                    union all
                    (
                        select job.share, true
                        from pushq.jobs_unfinished as job
                        where job.status = 'queued' and job.apart = 'fair' and job.queue collate "C" = guess_in_ring.its_queue
                        and job.share > ''
                        order by job.share
                        limit 1
                    )
                    limit 1
                ) as first
            )
            union all
            select ring.place + 1, following.share, following.is_second_part
            from ring
            cross join lateral (
                (
                    select job.share, ring.is_second_part
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = 'fair' and job.queue collate "C" = guess_in_ring.its_queue
                    and job.share > ring.share and (not ring.is_second_part or job.share < guess_in_ring.after)
                    order by job.share
                    limit 1
                )
                union all
                (
                    select job.share, true
                    from pushq.jobs_unfinished as job
                    where not ring.is_second_part
                    and job.status = 'queued' and job.apart = 'fair' and job.queue collate "C" = guess_in_ring.its_queue
                    and job.share > '' and job.share < guess_in_ring.after
                    order by job.share
                    limit 1
                )
                limit 1
            ) as following
        ),
        -- taken: of the jobs of its round.
        sharer as (
            select ring.place, ring.share, its.weight, its.taken, its.weight * rounds - its.taken as most
            from (select * from ring limit most_sharers) as ring
            cross join lateral (
                select
                    known.weight,
                    case when ring.share = guess_in_ring.after then least(guess_in_ring.taken, known.weight) else 0 end as taken
                from (
                    select coalesce((
                        select tenant.weight from pushq.tenants as tenant where is_by_tenant and tenant.tenant_id = substr(ring.share, 3)
                    ), 1) as weight
                    offset 0
                ) as known
            ) as its
        ),
        candidate as (
            select
                job.id, sharer.place, job.rank, (job.rank + sharer.taken - 1) / sharer.weight as round,
                coalesce(job.rank, 0) >= sharer.most as may_have_more
            from sharer
            left join lateral (
                select its.id, row_number() over (order by its.priority, its.run_at, its.id) as rank
                from (
                    with recursive line as (
                        (
                            select job.lane, job.task collate "C" as task, job.priority, job.needs
                            from pushq.jobs_unfinished as job
                            where job.status = 'queued' and job.apart = 'fair' and job.queue collate "C" = guess_in_ring.its_queue
                            and job.share = sharer.share
                            order by job.lane, job.task collate "C", job.priority, job.run_at, job.id
                            limit 1
                        )
                        union all
                        select following.*
                        from line
                        cross join lateral (
                            select job.lane, job.task collate "C" as task, job.priority, job.needs
                            from pushq.jobs_unfinished as job
                            where job.status = 'queued' and job.apart = 'fair' and job.queue collate "C" = guess_in_ring.its_queue
                            and job.share = sharer.share
                            and (job.lane, job.task collate "C", job.priority) > (line.lane, line.task, line.priority)
                            order by job.lane, job.task collate "C", job.priority, job.run_at, job.id
                            limit 1
                        ) as following
                    )
                    select first.*
                    from (select * from line limit 100) as line
                    cross join lateral (
                        select job.id, job.priority, job.run_at
                        from pushq.jobs_unfinished as job
                        where job.status = 'queued' and job.apart = 'fair' and job.queue collate "C" = guess_in_ring.its_queue
                        and job.share = sharer.share and job.lane = line.lane and job.task collate "C" = line.task
                        and job.priority = line.priority
                        and job.run_at <= guess_in_ring.due_by
                        order by job.run_at, job.id
                        limit sharer.most
                    ) as first
                    where line.task = any(guess_in_ring.tasks)
                    and (line.lane = '' or guess_in_ring.may_hold and not case
                        when many_spent is null then line.needs ?| guess_in_ring.spent
                        else many_spent ?| array(select jsonb_object_keys(line.needs))
                    end)
                    order by first.priority, first.run_at, first.id
                    limit sharer.most
                ) as its
            ) as job on true
            where job.id is not null or sharer.most = 0 or sharer.place = most_sharers
        )
        select
            array_agg(listed.id order by listed.round, listed.place, listed.rank) filter (where listed.id is not null),
            count(*) filter (where listed.may_have_more), coalesce(bool_or(listed.place = most_sharers), false)
        into found_ids, sharers_with_more, are_more
        -- One more, since the share `after` may have had its turn.
        from (select * from candidate limit case when rounds = 1 then wanted + 1 end) as listed;
        exit when coalesce(cardinality(found_ids), 0) >= wanted or sharers_with_more = 0;
        rounds := greatest(8 * rounds, 2 * wanted / sharers_with_more);
    end loop;
    return coalesce(found_ids[1:wanted], '{}') || case when are_more then array[null::uuid] end;
end
$$;

-- Locks the turnstiles of the names, in order. Waits a moment and no longer, since a guest may hold one in a transaction that stays
-- open. Returns whether all are locked.
create function pushq.lock_turnstiles(names text[]) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
begin
    perform
    from pushq.turnstiles
    where turnstile = any(array(select distinct hashtext(name) & 255 from unnest(lock_turnstiles.names) as name))
    order by turnstile
    for update;
    return true;
exception
    when lock_not_available then
        return false;
end
$$;

-- Which of the queued jobs fit, in the given order, beside all that runs: at most `most`, and at most most_holding of them with
-- needs. A job that will never fit, since it needs more than there is, is left out. A job that does not fit is passed by. If the
-- job has been due for a second, what the job needs is reserved: those behind it find the less.
create function pushq.choose_fitting(ids uuid[], most int, most_holding int) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    names text[];
    left_over int[];
    most_ever int[];
    candidate record;
    fits boolean;
    fits_ever boolean;
    holding int := 0;
    chosen uuid[] := '{}';
begin
    select array_agg(free.name), array_agg(free.units), array_agg(free.most)
    into names, left_over, most_ever
    from pushq.free(array(
        select distinct jsonb_object_keys(wanted.needs)
        from (
            select distinct job.needs from pushq.jobs_unfinished as job where job.id = any(choose_fitting.ids) and job.needs is not null
        ) as wanted
    )) as free;
    for candidate in
        select
            job.id, job.needs is not null as has_needs, shape.places, shape.units, job.run_at < clock_timestamp() - interval '1 second' as is_overtaken,
            job.attempt = 0 and job.limit_key is not null and pushq.must_wait(job.limit_key) as must_wait
        from unnest(choose_fitting.ids) with ordinality as given (id, place)
        cross join lateral (
            select its.id, its.needs, its.run_at, its.limit_key, its.attempt
            from pushq.jobs_unfinished as its
            where its.id = given.id and its.status = 'queued'
            offset 0
        ) as job
        left join (
            select wanted.needs, array_agg(array_position(names, need.key)) as places, array_agg(need.value::int) as units
            from (
                select distinct its.needs
                from pushq.jobs_unfinished as its
                where its.id = any(choose_fitting.ids) and its.needs is not null
            ) as wanted
            cross join lateral jsonb_each(wanted.needs) as need
            where need.key = any(names)
            group by wanted.needs
        ) as shape on shape.needs = job.needs
        order by given.place
    loop
        continue when candidate.must_wait;
        continue when candidate.has_needs and holding >= choose_fitting.most_holding;
        fits := true;
        fits_ever := true;
        for i in 1..coalesce(cardinality(candidate.places), 0) loop
            fits := fits and left_over[candidate.places[i]] >= candidate.units[i];
            fits_ever := fits_ever and most_ever[candidate.places[i]] >= candidate.units[i];
        end loop;
        continue when not fits_ever;
        if fits or candidate.is_overtaken then
            for i in 1..coalesce(cardinality(candidate.places), 0) loop
                left_over[candidate.places[i]] := left_over[candidate.places[i]] - candidate.units[i];
            end loop;
        end if;
        if fits then
            holding := holding + candidate.has_needs::int;
            chosen := chosen || candidate.id;
            exit when cardinality(chosen) >= choose_fitting.most;
        end if;
    end loop;
    return chosen;
end
$$;

-- Takes the tokens of the jobs from the names that have a rate, whose turnstiles are locked.
create function pushq.spend_tokens(ids uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    spent_at timestamptz := clock_timestamp();
begin
    insert into pushq.tokens as token (name, whole_at)
    select
        spent.name,
        greatest(spent_at, known.whole_at) + spent.units / rule.rate * interval '1 second'
    from (
        select need.key as name, sum(need.value::int) as units
        from pushq.jobs_unfinished as job
        cross join lateral jsonb_each(job.needs) as need
        where job.id = any(spend_tokens.ids)
        group by need.key
        offset 0
    ) as spent
    join pushq.rules(array(
        select distinct jsonb_object_keys(job.needs)
        from pushq.jobs_unfinished as job
        where job.id = any(spend_tokens.ids) and job.needs is not null)) as rule
        on rule.name = spent.name and rule.rate is not null
    left join pushq.tokens as known on known.name = spent.name
    order by spent.name
    on conflict on constraint tokens_pkey do update set whole_at = excluded.whole_at;
end
$$;

-- Locks the queued ones of the jobs that no other session has locked, in the given order: at most `most`.
create function pushq.lock_queued(ids uuid[], most int) returns uuid[]
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
            from unnest(lock_queued.ids[tried + 1:tried + step]) with ordinality as given (id, place)
            cross join lateral (
                select its.id
                from pushq.jobs_unfinished as its
                where its.id = given.id and its.status = 'queued'
                for no key update skip locked
            ) as job
            order by given.place);
        tried := tried + step;
    end loop;
    return locked;
end
$$;

-- Locks those of the queued jobs, in the given order, that fit beside all that runs, and returns their ids: at most `most`, and at most
-- most_holding of them with needs. Once in a claim: what the first call has locked does not run yet, and a second one would not count it.
create function pushq.lock_fitting(ids uuid[], most int, most_holding int) returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    all_names text[];
    names text[];
    chosen uuid[];
    has_rates boolean;
begin
    if coalesce(cardinality(lock_fitting.ids), 0) = 0 or lock_fitting.most < 1 then
        return '{}';
    end if;
    all_names := array(
        select distinct jsonb_object_keys(wanted.needs)
        from (
            select distinct job.needs from pushq.jobs_unfinished as job where job.id = any(lock_fitting.ids) and job.needs is not null
        ) as wanted
    );
    if cardinality(all_names) = 0 then
        return pushq.lock_queued(lock_fitting.ids, lock_fitting.most);
    end if;
    select array_agg(rule.name), bool_or(rule.rate is not null) into names, has_rates
    from pushq.rules(all_names) as rule
    where rule.capacity is not null or rule.rate is not null;
    if names is not null and not pushq.lock_turnstiles(names) then
        return '{}';
    end if;
    -- From here on each statement has a new snapshot.
    chosen := pushq.lock_queued(
        pushq.choose_fitting(lock_fitting.ids, lock_fitting.most, lock_fitting.most_holding), lock_fitting.most);
    if has_rates then
        perform pushq.spend_tokens(chosen);
    end if;
    return chosen;
end
$$;

-- As pushq.lock_claimable() of 0004_claims, and takes jobs in lanes and of fair queues too. At most most_holding of them have needs, since
-- a job that only waits for a worker may hold nothing. Jobs with needs are looked for from the beginning on, wherever `since` is:
-- a look that leaves some of them has not taken all. Of jobs that are equally urgent, these come first if lanes_first says so.
-- near: affinities that are preferred among equally urgent jobs. after, taken: for each of the queues, the share of which the last job was
-- taken, and how many were taken in turn. Null: the round begins anywhere.
create function pushq.lock_claimable(
    queues text[], tasks text[], its_supervisor text, most int, since timestamptz, due_by timestamptz, most_holding int,
    lanes_first boolean, near text[], after text[], taken int[])
returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    has_priorities boolean;
    first_in_lanes int;
    fair_queues text[];
    fair_after text[];
    fair_taken int[];
    lanes_at int;
    open_queues text[];
    lease_is_live boolean;
    ids uuid[] := '{}';
begin
    select
        exists (
            select
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart is null and job.priority <> 0
            and job.queue collate "C" = any(lock_claimable.queues) and job.run_at >= lock_claimable.since),
        (
            select min(first.priority)
            from unnest(lock_claimable.queues) as open (name)
            cross join lateral (
                select job.priority
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = 'lane' and job.queue = open.name
                order by job.priority
                limit 1
            ) as first
            where lock_claimable.most_holding > 0
        ),
        array(
            select open.name
            from pushq.open_queues(lock_claimable.queues) as open
            where exists (
                select from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = 'fair' and job.queue = open.name)
            order by open.place
        ),
        array(select queue.name from pushq.open_queues(lock_claimable.queues) as queue order by queue.place),
        exists (
            select from pushq.supervisors as live
            where live.name = lock_claimable.its_supervisor and live.lease_until > now())
    into has_priorities, first_in_lanes, fair_queues, open_queues, lease_is_live;
    if not lease_is_live then
        return '{}';
    end if;

    if cardinality(fair_queues) > 0 then
        fair_after := array(
            select coalesce(after[array_position(queues, name)], lpad(to_hex(floor(random() * 256)::int), 2, '0'))
            from unnest(fair_queues) with ordinality as fair (name, place)
            order by place);
        fair_taken := array(
            select coalesce(taken[array_position(queues, name)], 0)
            from unnest(fair_queues) with ordinality as fair (name, place)
            order by place);
    end if;
    lanes_at := case
        when first_in_lanes is not null then sign(first_in_lanes) + 2 - lanes_first::int
        when cardinality(fair_queues) > 0 then 2 - lanes_first::int
    end;
    for step in 0..3 loop
        if step = lanes_at and cardinality(ids) < most then
            ids := ids || pushq.lock_in_turn(
                open_queues, first_in_lanes is not null, fair_queues, tasks, most - cardinality(ids), most_holding, due_by, near,
                fair_after, fair_taken);
        end if;
        exit when cardinality(ids) >= most;
        if step = 1 then
            ids := ids || pushq.lock_ordinary(open_queues, tasks, most - cardinality(ids), since, due_by);
        elsif has_priorities and step in (0, 2) then
            ids := ids || pushq.lock_by_priority(step - 1, open_queues, tasks, most - cardinality(ids), since, due_by);
        end if;
    end loop;
    return ids;
end
$$;

-- Locks due jobs in lanes, and of fair queues, that fit beside all that runs, and returns their ids. Now the ones come first, now the
-- others. If none of those looked at fits, as each needs several units and some are free, the search goes on behind them. after, taken:
-- of the fair queues, as in pushq.guess_in_ring().
create function pushq.lock_in_turn(
    queues text[], has_lanes boolean, fair_queues text[], tasks text[], most int, most_holding int, due_by timestamptz, near text[],
    after text[], taken int[])
returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    may_hold boolean := lock_in_turn.most_holding > 0;
    spent text[] := case when may_hold then pushq.spent_names(true) end;
    begun uuid[] := array(select id from pushq.begun_in_order(lock_in_turn.queues, lock_in_turn.tasks, lock_in_turn.due_by));
    are_rings_first boolean := random() < 0.5;
    in_lanes uuid[];
    in_rings uuid[];
    guessed uuid[];
    locked uuid[];
begin
    for _ in 1..2 loop
        in_lanes := case when may_hold and has_lanes then pushq.guess_fitting(
            lock_in_turn.queues, lock_in_turn.tasks, least(lock_in_turn.most, lock_in_turn.most_holding), lock_in_turn.due_by, spent,
            lock_in_turn.near) end;
        in_rings := '{}';
        for place in 1..coalesce(cardinality(fair_queues), 0) loop
            in_rings := in_rings || pushq.guess_in_ring(
                fair_queues[place], lock_in_turn.tasks, lock_in_turn.most, lock_in_turn.due_by, spent, may_hold, after[place], taken[place]);
        end loop;
        guessed := begun || case when are_rings_first then in_rings || in_lanes else in_lanes || in_rings end;
        locked := pushq.lock_fitting(guessed, lock_in_turn.most, lock_in_turn.most_holding);
        exit when cardinality(locked) > 0 or not may_hold
            or cardinality(guessed) < lock_in_turn.most and array_position(guessed, null) is null;
        spent := spent || pushq.lacked_names(guessed);
        after := array(select lpad(to_hex(floor(random() * 256)::int), 2, '0') from unnest(fair_queues));
    end loop;
    return locked;
end
$$;

-- When a job with needs may be taken next, as far as time decides: now if one fits, later if one is due later or lacks only what a rate
-- will bring. Null: the others wait for units, and whoever gives units back rings.
create function pushq.next_due_in_lanes(queues text[], tasks text[]) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    asked_at timestamptz := clock_timestamp();
    spent text[] := pushq.spent_names(false);
    begun uuid[] := array(select id from pushq.begun_in_order(next_due_in_lanes.queues, next_due_in_lanes.tasks, asked_at));
    guessed uuid[];
    ids uuid[] := '{}';
    fits uuid[];
begin
    for _ in 1..2 loop
        guessed := begun || pushq.guess_fitting(
            next_due_in_lanes.queues, next_due_in_lanes.tasks, 50, clock_timestamp(), spent, null)
            || array(
                select guessed.id
                from unnest(next_due_in_lanes.queues) as open (name)
                cross join lateral unnest(pushq.guess_in_ring(
                    open.name, next_due_in_lanes.tasks, 50, clock_timestamp(), spent, true, '', 0)) as guessed (id)
                where exists (
                    select from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = 'fair' and job.queue = open.name));
        fits := pushq.choose_fitting(guessed, 1, 1);
        if cardinality(fits) > 0 then
            return (select job.run_at from pushq.jobs_unfinished as job where job.id = fits[1]);
        end if;
        ids := ids || guessed;
        exit when cardinality(guessed) < 50;
        spent := spent || pushq.lacked_names(guessed);
    end loop;
    if array_position(ids, null) is not null then
        return asked_at;  -- one of the lanes that were not looked at may fit
    end if;
    return least(
        (
            select min(rated.next_at)
            from (
                select max(
                    token.whole_at - (rule.burst - need.value::int) / rule.rate * interval '1 second') as next_at
                from pushq.jobs_unfinished as job
                cross join lateral jsonb_each(job.needs) as need
                join pushq.rules(array(
                    select distinct jsonb_object_keys(its.needs) from pushq.jobs_unfinished as its where its.id = any(ids)
                )) as rule on rule.name = need.key and rule.rate is not null
                join pushq.tokens as token on token.name = need.key
                where job.id = any(ids)
                group by job.id
            ) as rated
            where rated.next_at > asked_at  -- a token may have come since: then now is too late to compare with
        ),
        (
            with recursive level as (
                select apart.kind, open.name as queue, first.priority
                from unnest(next_due_in_lanes.queues) as open (name)
                cross join (values ('lane'), ('fair')) as apart (kind)
                cross join lateral (
                    select job.priority
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = apart.kind and job.queue = open.name
                    order by job.priority
                    limit 1
                ) as first
                union all
                select level.kind, level.queue, following.priority
                from level
                cross join lateral (
                    select job.priority
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = level.kind and job.queue = level.queue and job.priority > level.priority
                    order by job.priority
                    limit 1
                ) as following
            )
            select min(first.run_at)
            from (select * from level limit 100) as level
            cross join lateral (
                select job.run_at
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = level.kind and job.queue = level.queue and job.priority = level.priority
                and job.run_at > clock_timestamp()
                order by job.run_at
                limit 1
            ) as first
        ));
end
$$;

-- As pushq.next_due() of 0004_claims, and jobs with needs.
create function pushq.next_due_of_all(queues text[], tasks text[], since timestamptz) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return least(
        pushq.next_due(next_due_of_all.queues, next_due_of_all.tasks, next_due_of_all.since),
        case when exists (
            select
            from unnest(next_due_of_all.queues) as served (name)
            cross join (values ('lane'), ('fair')) as apart (kind)
            cross join lateral (
                select
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = apart.kind and job.queue = served.name
                limit 1
            ) as waiting
        ) then pushq.next_due_in_lanes(
            array(select open.name from pushq.open_queues(next_due_of_all.queues) as open), next_due_of_all.tasks) end);
end
$$;

-- As in 0022_webhooks, and {"lane": text, "turn": seconds} of a job with needs, its {"affinity": text}, and {"share": text, "weight": int}
-- of a job of a fair queue.
create function pushq.extras(
    progress jsonb, traceparent text, queue text, task text, tenant_id text, noted text[], lane text, affinity text, share text)
returns text
language sql stable
begin atomic
    select nullif((
        coalesce(pushq.extras(progress, traceparent, queue, task, tenant_id, noted)::jsonb, '{}')
        || case when lane <> '' then jsonb_build_object(
            'lane', lane,
            'turn', coalesce((select extract(epoch from known.turn)::float8 from pushq.queues as known where known.name = queue), 0.05))
        else '{}' end
        || case when affinity is not null then jsonb_build_object('affinity', affinity) else '{}' end
        || case when share <> '' then jsonb_build_object(
            'share', share,
            'weight', coalesce((
                select known.weight
                from pushq.tenants as known
                where known.tenant_id = extras.tenant_id and substr(share, 3) = extras.tenant_id), 1))
        else '{}' end)::text, '{}');
end;

do $$
begin
    execute replace(replace(
        pg_get_functiondef('pushq.hand_out(uuid[], text, int, uuid, text[])'::regprocedure),
        'job.progress is not null or job.traceparent is not null or',
        'job.progress is not null or job.traceparent is not null or job.lane is not null or'),
        'job.tenant_id, hand_out.noted)', 'job.tenant_id, hand_out.noted, job.lane, job.affinity, job.share)');
end
$$;


-- Ends -----------------------------------------------------------------------------------------------------------

-- Rings for each queue in which jobs with needs wait, since units have been given back. A job of any queue may need them. Only for
-- statements that come after the commit that has given the units back.
create function pushq.ring_for_units() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pushq.ring_if_idle(waiting.queue)
    from (
        with recursive waiting as (
            select apart.kind, first.queue
            from (values ('lane'), ('fair')) as apart (kind)
            cross join lateral (
                select job.queue collate "C" as queue
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = apart.kind
                order by job.queue collate "C"
                limit 1
            ) as first
            union all
            select waiting.kind, following.queue
            from waiting
            cross join lateral (
                select job.queue collate "C" as queue
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = waiting.kind and job.queue collate "C" > waiting.queue
                order by job.queue collate "C"
                limit 1
            ) as following
        )
        select distinct queue from waiting
    ) as waiting;
end
$$;

-- Rings all pools if one is idle: for transactions that give units back, or leave the line. Who waits for the units cannot be told before
-- the commit: a job may be inserted meanwhile, and looked at in vain.
create function pushq.ring_all_if_idle() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from generate_series(0, 63) as bucket
        where pg_sequence_last_value(('pushq.gate_' || bucket)::regclass) > pushq.gate_clock()) then
        perform pushq.ring_bell('');
    end if;
end
$$;

-- The next jobs of the lanes start in the place of jobs that have ended in this transaction, and hold what those held. So no lock and
-- no count is needed. queues, lanes: of the jobs that ended at the places (null: at all), null for a job whose lane must let go.
-- turns_over: whether a lane goes on only if none of the hundred most urgent jobs of its queue waits for what it holds, and no job without
-- needs is more urgent; a lane with an affinity holds its worker, too. A lane lets go if one of its names has a rate, or by now less capacity than a job needs. Whoever calls
-- looks for jobs next, or rings for the units that are given back.
create function pushq.follow(
    places int[], queues text[], lanes text[], turns_over boolean[], tasks text[], its_supervisor text, its_pool int, its_token uuid, noted text[])
returns table (
    id uuid, task text, queue text, payload text, attempt int, failures int, crashes int, max_attempts int,
    timeout double precision, tenant_id text, correlation_id text, token uuid, extras text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ids uuid[] := array(
        with ended as materialized (
            select given.queue, given.lane, count(*) as jobs, bool_or(given.turn_is_over) as turn_is_over
            from unnest(follow.queues, follow.lanes, follow.turns_over) with ordinality as given (queue, lane, turn_is_over, place)
            where given.lane is not null and (follow.places is null or given.place = any(follow.places))
            and given.queue in (select name from pushq.open_queues(follow.queues))
            group by given.queue, given.lane
        ),
        urgent as materialized (
            select elapsed.queue, its.lane, its.needs
            from (select distinct ended.queue from ended where ended.turn_is_over) as elapsed
            cross join lateral (
                select job.lane, job.needs
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = 'lane' and job.queue = elapsed.queue and job.run_at <= clock_timestamp()
                order by job.priority, job.run_at, job.id
                limit 100
            ) as its
        )
        select following.id
        from ended
        cross join lateral (
            with recursive line as (
                (
                    select job.task collate "C" as task, job.priority, job.needs, job.affinity is not null as has_affinity
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = 'lane' and job.queue collate "C" = ended.queue and job.share = ''
                    and job.lane = ended.lane
                    order by job.task collate "C", job.priority
                    limit 1
                )
                union all
                select more.*
                from line
                cross join lateral (
                    select job.task collate "C" as task, job.priority, job.needs, job.affinity is not null
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = 'lane' and job.queue collate "C" = ended.queue and job.share = ''
                    and job.lane = ended.lane and (job.task collate "C", job.priority) > (line.task, line.priority)
                    order by job.task collate "C", job.priority
                    limit 1
                ) as more
            )
            select its.id, its.priority, its.run_at
            from (select * from line limit 100) as line
            cross join lateral (
                select job.id, job.priority, job.run_at, job.limit_key, job.attempt
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = 'lane' and job.queue collate "C" = ended.queue and job.share = ''
                and job.lane = ended.lane and job.task collate "C" = line.task and job.priority = line.priority
                and job.run_at <= clock_timestamp()
                order by job.run_at, job.id
                limit ended.jobs
                for no key update skip locked
            ) as its
            where line.task = any(follow.tasks)
            -- All jobs of a lane need the same: it is enough to look once for each line.
            and not exists (
                select
                from pushq.rules(array(select jsonb_object_keys(line.needs))) as rule
                where rule.rate is not null or rule.capacity < (line.needs ->> rule.name)::int)
            and not (ended.turn_is_over and (
                exists (
                    select
                    from urgent
                    where urgent.queue = ended.queue and urgent.lane <> ended.lane and (
                        line.has_affinity
                        or urgent.needs ?| array(
                            select name from jsonb_object_keys(line.needs) as name where name not like 'affinity:%')))
                or exists (
                    select
                    from (
                        select job.priority, job.run_at
                        from pushq.jobs_unfinished as job
                        where job.status = 'queued' and job.apart is null and job.priority <> 0
                        and job.queue collate "C" = ended.queue and sign(job.priority) = -1
                        limit 100
                    ) as plain
                    where plain.priority < line.priority and plain.run_at <= clock_timestamp())
            ))
            and not (its.attempt = 0 and its.limit_key is not null and pushq.must_wait(its.limit_key))
            order by its.priority, its.run_at, its.id
            limit ended.jobs
        ) as following
        where exists (
            select from pushq.supervisors as live where live.name = follow.its_supervisor and live.lease_until > clock_timestamp())
    );
begin
    return query select * from pushq.hand_out(ids, follow.its_supervisor, follow.its_pool, follow.its_token, follow.noted);
end
$$;

do $$
declare
    function regprocedure;
begin
    -- The new columns are kept with finished jobs, and come back with them.
    foreach function in array '{
        "pushq.end_sorted(uuid[], uuid[], float8[], float8[], text[], text[], text[], text[])",
        "pushq.end_quietly(uuid[], uuid[], float8[], float8[], text[], text[], text[], text[])",
        "pushq.bring_back(uuid, date, timestamptz)"}'::regprocedure[]
    loop
        execute regexp_replace(
            pg_get_functiondef(function), '(\w+\.)?webhook_url, (\w+\.)?traceparent',
            '\&, \1needs, \1limit_key, \1affinity, \1lane', 'g');
    end loop;
end
$$;

-- What gives units back rings for them. So does what takes a job out of the line or changes its place there, since the job may have
-- reserved units. A running job that holds units holds them until its handler has stopped.
do $$
begin
    execute replace(replace(replace(replace(
        pg_get_functiondef('pushq.give_back(uuid[], uuid[], text[], float8[], text[], text[])'::regprocedure),
        'job.supervisor, job.apart, give_back', 'job.supervisor, job.apart, job.needs, give_back'),
        'where going_on.apart = ''cancelling'')
    into places, cancelling', 'where going_on.apart = ''cancelling''), bool_or(going_on.needs is not null)
    into places, cancelling, gave_units'),
        'cancelling uuid[];', 'cancelling uuid[];
    gave_units boolean;'),
        'return places;', 'if gave_units then
        perform pushq.ring_all_if_idle();
    end if;
    return places;');

    execute replace(replace(
        pg_get_functiondef('pushq.end_jobs(uuid[], uuid[], float8[], float8[], text[], text[], text[], text[])'::regprocedure),
        'min(job.supervisor) as supervisor', 'min(job.supervisor) as supervisor,
        bool_or(job.needs is not null) as gave_units'),
        'its.queue, its.task, its.supervisor', 'its.queue, its.task, its.supervisor, its.needs');
    execute replace(
        pg_get_functiondef('pushq.end_jobs(uuid[], uuid[], float8[], float8[], text[], text[], text[], text[])'::regprocedure),
        'return end_of_all.places;', 'if before.gave_units then
        perform pushq.ring_all_if_idle();
    end if;
    return end_of_all.places;');

    execute replace(
        pg_get_functiondef('pushq.mark_cancelling(uuid)'::regprocedure),
        'its.waiters is not null', '(its.waiters is not null or its.needs is not null)');

    execute replace(replace(
        pg_get_functiondef('pushq.change(uuid, text, text)'::regprocedure),
        'pushq.apart(crashes)', 'pushq.apart(crashes, lane, share)'),
        'pushq.ring_if_idle(was.queue);', 'pushq.ring_if_idle(was.queue), pushq.ring_all_if_idle();');

    execute replace(
        pg_get_functiondef('pushq.edit_queued(uuid, int, timestamptz)'::regprocedure),
        'if edit_queued.run_at is not null', 'perform pushq.ring_all_if_idle() from pushq.jobs_unfinished as job
        where job.id = edit_queued.id and job.needs is not null;
        if edit_queued.run_at is not null');

    execute replace(
        pg_get_functiondef('pushq.take(uuid, text, interval)'::regprocedure),
        'array(select id from pushq.jobs_unfinished as job where job.id = take.id and job.status = ''queued'' for no key update)',
        'pushq.lock_fitting(
            array(select id from pushq.jobs_unfinished as job where job.id = take.id and job.status = ''queued'' for no key update), 1, 1)');

    execute replace(replace(replace(
        pg_get_functiondef('pushq.take_next(text, text, interval, text[])'::regprocedure),
        '#variable_conflict use_column', '#variable_conflict use_variable'),
        'wanted := pushq.tasks_in(take_next.queue);', 'wanted := pushq.tasks_in(take_next.queue) || array(
            select distinct urgent.task collate "C"
            from (values (''lane''), (''fair'')) as apart (kind)
            cross join lateral (
                select job.task
                from pushq.jobs_unfinished as job
                where job.status = ''queued'' and job.apart = apart.kind and job.queue = take_next.queue
                order by job.priority, job.run_at, job.id
                limit 1000
            ) as urgent
            union
            select known.name collate "C" from pushq.tasks as known);
        wanted := array(select distinct name collate "C" from unnest(wanted) as name order by 1);'),
        'guest, 1, ''-infinity'', clock_timestamp())', 'guest, 1, ''-infinity'', clock_timestamp(), 1, random() < 0.5, null, null, null)');

    execute replace(replace(
        pg_get_functiondef('pushq.lock_suspect(text, text[], text)'::regprocedure),
        'return array(', 'return pushq.lock_fitting(array('),
        'limit 1
        for no key update of job skip locked);', 'limit 20), 1, 1);');
end
$$;
