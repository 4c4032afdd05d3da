-- Why a job waits: pushq.position() and pushq.why().

insert into pushq.migrations (version, name) values (25, '0025_why');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 25;

alter table pushq.queues add column paused_by text;
comment on column pushq.queues.paused_by is 'Who paused the queue: login, role, application, pushq.actor.';

-- As in 0006_operate, and notes who. Rings, since jobs of the queue may have reserved units.
create or replace function pushq.pause(queue text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.queues as known (name, paused_at, paused_by) values (pause.queue, now(), pushq.actor())
    on conflict (name) do update set paused_at = now(), paused_by = excluded.paused_by where known.paused_at is null;
    if not found then
        return 'already paused';
    end if;
    perform pushq.ring_all_if_idle();
    return 'paused';
end
$$;

-- How many jobs of its queue come before a queued job, by (priority, run_at, id), of those that are due when the job is: counted up to
-- 100,000; 100,001 means more. Null: the job is not queued, or not the caller's. Each line is counted from the job backwards: a scan
-- forwards would not stop at the job while priorities are equal. No line is looked at beyond 100,000 jobs. Suspects, which wait for a
-- pool of their own, are counted among jobs with needs.
create function pushq.position(id uuid) returns int
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
#variable_conflict use_variable
declare
    most constant int := 100001;
    mine record;
    ahead bigint := 0;
    line record;
    more bigint;
    due_by timestamptz;
    before_at timestamptz;
    before_id uuid;
begin
    select job.queue, job.priority, job.run_at, job.id into mine
    from pushq.jobs_unfinished as job
    where job.id = position.id and job.status = 'queued' and pushq.may_touch(job.tenant_id);
    if not found then
        return null;
    end if;
    due_by := greatest(mine.run_at, clock_timestamp());
    -- Jobs of priority 0.
    if mine.priority >= 0 then
        before_at := case when mine.priority = 0 then mine.run_at else due_by end;
        before_id := case when mine.priority = 0 then mine.id else 'ffffffff-ffff-ffff-ffff-ffffffffffff' end;
        for line in
            with recursive task as (
                (
                    select job.task collate "C" as name
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority = 0 and job.queue = mine.queue collate "C"
                    order by job.task collate "C"
                    limit 1
                )
                union all
                select following.name
                from task
                cross join lateral (
                    select job.task collate "C" as name
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority = 0 and job.queue = mine.queue collate "C"
                    and job.task > task.name collate "C"
                    order by job.task collate "C"
                    limit 1
                ) as following
            )
            select name from task
        loop
            select count(*) into more
            from (
                select
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority = 0 and job.queue = mine.queue collate "C"
                and job.task = line.name collate "C"
                and (job.run_at, job.id) < (before_at, before_id)
                order by job.run_at desc, job.id desc
                limit most - ahead
            ) as before;
            ahead := ahead + more;
            exit when ahead >= most;
        end loop;
    end if;
    -- Jobs of other priorities: of those below 0 all, if this one is not below 0.
    for line in
        with recursive task as (
            select side.sign, first.name
            from (values (-1), (1)) as side (sign)
            cross join lateral (
                select job.task collate "C" as name
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = mine.queue
                and sign(job.priority) = side.sign
                order by job.task collate "C"
                limit 1
            ) as first
            where side.sign = -1 or mine.priority > 0
            union all
            select task.sign, following.name
            from task
            cross join lateral (
                select job.task collate "C" as name
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = mine.queue
                and sign(job.priority) = task.sign and job.task collate "C" > task.name
                order by job.task collate "C"
                limit 1
            ) as following
        )
        select sign, name from task
    loop
        exit when ahead >= most;
        select count(*) into more
        from (
            (
                select
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = mine.queue
                and sign(job.priority) = line.sign and job.task collate "C" = line.name
                and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) between -32768 and mine.priority - 1
                limit most - ahead
            )
            union all
            (
                select
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = mine.queue
                and sign(job.priority) = line.sign and job.task collate "C" = line.name
                and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = mine.priority
                and (job.run_at, job.id) < (mine.run_at, mine.id)
                limit most - ahead
            )
            union all
            -- Jobs for later are not in the order of priorities.
            (
                select
                from (
                    select job.priority, job.run_at, job.id
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = mine.queue
                    and sign(job.priority) = line.sign and job.task collate "C" = line.name
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = -32769
                    and job.run_at <= due_by
                    limit most
                ) as late
                where (late.priority, late.run_at, late.id) < (mine.priority, mine.run_at, mine.id)
            )
            limit most - ahead
        ) as before;
        ahead := ahead + more;
    end loop;
    -- Jobs apart.
    if ahead < most then
        select least(ahead + count(*), most) into ahead
        from (values ('lane'), ('fair'), ('solo')) as apart (kind)
        cross join lateral (
            select job.run_at
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart = apart.kind and job.queue = mine.queue
            and (job.priority, job.run_at, job.id) < (mine.priority, mine.run_at, mine.id)
            order by job.priority desc, job.run_at desc, job.id desc
            limit most
        ) as before
        where before.run_at <= due_by;
    end if;
    return ahead;
end
$$;

-- How many jobs of a queue end in a second, by the jobs that ended last: those at the end of today's partition, if at least ten ended
-- in the last ten minutes. Null: nobody can say.
create function pushq.recent_rate(queue text) returns double precision
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    most_blocks constant int := 64;
    today regclass := to_regclass('pushq.jobs_' || to_char(now() at time zone 'UTC', 'YYYY_MM_DD'));
    blocks bigint := pg_relation_size(today) / current_setting('block_size')::int;
    rate double precision;
begin
    if today is null then
        return null;
    end if;
    execute format(
        'select count(*) filter (where queue = $1) / extract(epoch from clock_timestamp() - min(finished_at))::float8 '
        'from %s where ctid >= %L and finished_at > clock_timestamp() - interval ''10 minutes'' '
        'having count(*) filter (where queue = $1) >= 10',
        today, format('(%s,0)', greatest(0, blocks - most_blocks)))
    into rate
    using recent_rate.queue;
    return rate;
end
$$;

-- The live supervisors that serve a queue and know a task (null: any): how many there are, and how many guests; their queues and
-- tasks; how many workers they have, and how many of these run no job. Null workers: some supervisor has not said how many it has.
-- Deliveries of webhooks have workers of their own, which nobody counts.
create function pushq.serving(queue text, task text default null)
returns table (supervisors int, guests int, queues text[], tasks text[], workers int, idle int)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        count(*) filter (where live.pid > 0)::int,
        count(*) filter (where live.pid <= 0)::int,
        array(
            select distinct served.queue from pushq.supervisors as its cross join unnest(its.queues) as served (queue)
            where its.name = any(array_agg(live.name) filter (where live.pid > 0))),
        array(
            select distinct known.task from pushq.supervisors as its cross join unnest(its.tasks) as known (task)
            where its.name = any(array_agg(live.name) filter (where live.pid > 0))),
        case when bool_and(live.workers > 0) filter (where live.pid > 0) and serving.queue <> 'pushq.webhooks' then
            sum(live.workers) filter (where live.pid > 0) end::int,
        sum(greatest(live.workers - busy.workers, 0)) filter (where live.pid > 0)::int
    from pushq.supervisors as live
    cross join lateral (
        select count(*) as workers
        from pushq.jobs_unfinished as job
        where job.status = 'running' and job.supervisor = live.name and job.queue <> 'pushq.webhooks'
        and job.crashes < pushq.most_crashes() - 1
    ) as busy
    where live.lease_until > clock_timestamp() and serving.queue = any(live.queues)
    and (serving.task is null or serving.task = any(live.tasks));
end
$$;

-- Why no pool takes jobs of a queue: paused and unserved, as in pushq.why().
create function pushq.why_closed(queue text) returns table (cause text, sentence text, detail jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    serving record;
begin
    return query
    select
        'paused',
        case known.name when '*' then 'all queues are paused' else format('queue %L is paused', known.name) end
            || format(' since %s', date_trunc('second', known.paused_at)) || coalesce(', by ' || by.actor, ''),
        jsonb_build_object('queue', known.name, 'since', known.paused_at, 'by', by.actor)
    from pushq.queues as known
    cross join lateral (select case when pushq.may_touch(null) then known.paused_by end) as by (actor)
    where known.name in (why_closed.queue, '*') and known.paused_at is not null
    order by known.name = why_closed.queue;

    select * into serving from pushq.serving(why_closed.queue);
    if serving.supervisors = 0 then
        return query select
            'unserved',
            format('no live supervisor serves queue %L', why_closed.queue)
                || case serving.guests when 0 then '' when 1 then '; 1 guest has taken jobs of it'
                    else format('; %s guests have taken jobs of it', serving.guests) end,
            jsonb_build_object('queue', why_closed.queue, 'guests', serving.guests);
    end if;
end
$$;

-- Which of the needs cannot be met now, each as a sentence and as data: needs and rate, as in pushq.why(). Of another tenant's jobs
-- the caller learns numbers alone.
create function pushq.what_is_short(needs jsonb) returns table (cause text, sentence text, detail jsonb)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    short record;
begin
    for short in
        select
            need.key as name, need.value::int as units, rule.capacity, greatest(free.capacity_left, 0) as capacity_left,
            free.capacity_left < need.value::int as is_held, free.rate is not null and free.burst < need.value::int as is_too_large,
            free.rate is not null and free.burst - free.rate * extract(epoch from free.whole_at - clock_timestamp()) < need.value::int
                as is_rated,
            free.burst,
            case when free.rate * extract(epoch from free.whole_at - clock_timestamp()) > free.burst - need.value::int
                then pushq.whole_for(free.whole_at, free.burst - need.value::int, free.rate) end as next_at,
            holder.jobs, holder.cancelling, holder.ids
        from jsonb_each(what_is_short.needs) as need
        join pushq.free(array(select jsonb_object_keys(what_is_short.needs))) as free on free.name = need.key
        join pushq.rules(array(select jsonb_object_keys(what_is_short.needs))) as rule on rule.name = need.key
        cross join lateral (
            select
                count(*)::int as jobs,
                count(*) filter (where its.apart = 'cancelling')::int as cancelling,
                coalesce(
                    (array_agg(its.id order by its.started_at, its.id) filter (where pushq.may_touch(its.tenant_id)))[1:20], '{}') as ids
            from pushq.jobs_unfinished as its
            where its.status = 'running' and its.needs is not null and its.attempt > 0 and its.needs ? need.key
        ) as holder
        order by need.key
    loop
        if short.is_held then
            return query select
                'needs',
                case
                    when short.capacity = 0 then format('needs %L, which is closed: its capacity is 0', short.name)
                    when short.capacity < short.units then format(
                        'needs %s of %L, whose capacity is %s', short.units, short.name, short.capacity)
                    else format(
                        'needs %s of %L, of which %s of %s free', short.units, short.name, short.capacity_left,
                        case short.capacity when 1 then '1 is' else short.capacity || ' are' end)
                end
                || case when short.jobs > 0 and short.capacity >= short.units then
                    format('; %s the rest', case short.jobs when 1 then '1 job holds' else short.jobs || ' jobs hold' end)
                    || pushq.some_of(short.ids, short.jobs)
                    || case when short.cancelling > 0 then format(', %s being cancelled', short.cancelling) else '' end
                else '' end,
                jsonb_build_object(
                    'name', short.name, 'units', short.units, 'capacity', short.capacity, 'free', short.capacity_left,
                    'held_by', short.ids, 'holders', short.jobs, 'cancelling', short.cancelling);
        end if;
        if short.is_too_large then
            return query select
                'rate',
                format('needs %s of %L, of which %s may be taken at once', short.units, short.name, short.burst),
                jsonb_build_object('name', short.name, 'next_at', null);
        elsif short.is_rated then
            return query select
                'rate', format('the rate of %L allows the next at %s', short.name, date_trunc('milliseconds', short.next_at)),
                jsonb_build_object('name', short.name, 'next_at', short.next_at);
        end if;
    end loop;
end
$$;

-- When so many units fewer than the burst will be there, at a time when fewer are.
create function pushq.whole_for(whole_at timestamptz, fewer int, rate double precision) returns timestamptz
language sql immutable parallel safe
return whole_at - fewer / rate * interval '1 second';

-- Up to three of the ids, as the end of a sentence that has told of so many jobs.
create function pushq.some_of(ids uuid[], jobs int) returns text
language sql immutable parallel safe
return case when cardinality(ids) = 0 then '' else
    ': ' || array_to_string(ids[1:3], ', ')
    || case
        when jobs - least(cardinality(ids), 3) = 1 then ', and 1 other'
        when jobs > least(cardinality(ids), 3) then format(', and %s others', jobs - least(cardinality(ids), 3))
        else ''
    end
end;

-- For which job units are reserved that a job with needs could have otherwise: of the jobs before it, in the given queues and of the
-- given tasks, the first that lacks something, has been due for a second, and leaves too little. As pushq.choose_fitting() reserves,
-- among the two hundred most urgent jobs, and not for a job that will never fit.
create function pushq.reserved_for(id uuid, queues text[], tasks text[]) returns table (name text, before_id uuid, tenant_id text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    spent text[] := pushq.spent_names(true);
    left_over jsonb := '{}';
    most_ever jsonb := '{}';
    reserved_by jsonb := '{}';
    mine record;
    before record;
    need record;
    its_name text;
begin
    select its.priority, its.run_at, its.id, its.needs into mine
    from pushq.jobs_unfinished as its where its.id = reserved_for.id;
    for before in
        with recursive level as (
            select open.name as queue, first.priority
            from pushq.open_queues(reserved_for.queues) as open
            cross join lateral (
                select its.priority
                from pushq.jobs_unfinished as its
                where its.status = 'queued' and its.apart = 'lane' and its.queue = open.name and its.priority <= mine.priority
                order by its.priority
                limit 1
            ) as first
            union all
            select level.queue, following.priority
            from level
            cross join lateral (
                select its.priority
                from pushq.jobs_unfinished as its
                where its.status = 'queued' and its.apart = 'lane' and its.queue = level.queue
                and its.priority > level.priority and its.priority <= mine.priority
                order by its.priority
                limit 1
            ) as following
        )
        select urgent.*
        from (select * from level limit 100) as level
        cross join lateral (
            select its.id, its.tenant_id, its.task, its.needs, its.priority, its.run_at
            from pushq.jobs_unfinished as its
            where its.status = 'queued' and its.apart = 'lane' and its.queue = level.queue and its.priority = level.priority
            and its.run_at <= clock_timestamp()
            and (level.priority < mine.priority or (its.run_at, its.id) < (mine.run_at, mine.id))
            order by its.run_at, its.id
            limit 200
        ) as urgent
        where urgent.task = any(reserved_for.tasks) and not urgent.needs ?| spent
        order by urgent.priority, urgent.run_at, urgent.id
        limit 200
    loop
        select
            left_over || coalesce(jsonb_object_agg(free.name, free.units), '{}'),
            most_ever || coalesce(jsonb_object_agg(free.name, free.most), '{}')
        into left_over, most_ever
        from pushq.free(array(
            select key from jsonb_object_keys(before.needs || mine.needs) as key where not left_over ? key)) as free;
        continue when exists (select from jsonb_each(before.needs) as its where (most_ever ->> its.key)::int < its.value::int);
        if before.run_at < clock_timestamp() - interval '1 second' and exists (
            select from jsonb_each(before.needs) as its where (left_over ->> its.key)::int < its.value::int) then
            select coalesce(jsonb_object_agg(its.key, jsonb_build_array(before.id, before.tenant_id)), '{}') || reserved_by
            into reserved_by
            from jsonb_object_keys(before.needs) as its (key);
        elsif exists (select from jsonb_each(before.needs) as its where (left_over ->> its.key)::int < its.value::int) then
            continue;
        end if;
        for need in select * from jsonb_each(before.needs) as its where left_over ? its.key loop
            left_over := left_over || jsonb_build_object(need.key, (left_over ->> need.key)::int - need.value::int);
        end loop;
    end loop;
    for its_name in select its.key from jsonb_each(mine.needs) as its
        where (left_over ->> its.key)::int < its.value::int and reserved_by ? its.key order by its.key limit 1
    loop
        return query select its_name, (reserved_by -> its_name ->> 0)::uuid, reserved_by -> its_name ->> 1;
    end loop;
end
$$;

-- Why a queued job does not run: each cause as a sentence and as data, the most lasting first. No row: the next free worker takes the
-- job, or the job is not queued, or not the caller's. Of another tenant's jobs, and of who paused a queue, a tenant learns numbers
-- alone.
--
--   cause      detail
--   paused     {"queue", "since", "by"}
--   unserved   {"queue", "guests"}: no live supervisor serves the queue
--   unknown    {"task"}: no live supervisor that serves the queue knows the task
--   later      {"due_at"}
--   backoff    {"due_at", "error"}
--   suspect    {"crashes", "jobs"}: waits for a process of its own, behind so many of the queue, up to 1,000
--   order      {"key", "for": id, "due_at"}: under a strict key, for a job that has begun and is to be tried again
--   needs      {"name", "units", "capacity", "free", "held_by": [up to 20 ids], "holders": count, "cancelling": count}
--   rate       {"name", "next_at"}; null if the job needs more than the burst
--   reserved   {"name", "for": id}: for a job that has waited for longer
--   behind     {"jobs": count, "seconds": estimate or null}; jobs is 100001 for more than 100,000. Of a fair queue: of the jobs with the
--              same tenant or key
--   busy       {"workers": count}
create function pushq.why(id uuid) returns table (cause text, sentence text, detail jsonb)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    job record;
    serving record;
    ahead int;
    seconds float8;
    is_open boolean;
begin
    select its.* into job
    from pushq.jobs_unfinished as its
    where its.id = why.id and its.status = 'queued' and pushq.may_touch(its.tenant_id);
    if not found then
        return;
    end if;

    return query select * from pushq.why_closed(job.queue);
    is_open := not found;
    select * into serving from pushq.serving(job.queue, job.task);
    if serving.supervisors = 0 and exists (
        select from pushq.supervisors as live
        where live.lease_until > clock_timestamp() and live.pid > 0 and job.queue = any(live.queues)) then
        is_open := false;
        return query select
            'unknown', format('no live supervisor that serves queue %L knows task %L', job.queue, job.task),
            jsonb_build_object('task', job.task);
    end if;

    if job.run_at > clock_timestamp() and job.failures > 0 then
        return query select
            'backoff', format('backs off until %s, after %s', date_trunc('second', job.run_at), coalesce(job.error, 'a failure')),
            jsonb_build_object('due_at', job.run_at, 'error', job.error);
    elsif job.run_at > clock_timestamp() then
        return query select
            'later', format('is due at %s', date_trunc('second', job.run_at)), jsonb_build_object('due_at', job.run_at);
    end if;
    if job.apart = 'solo' then
        select count(*) into ahead
        from (
            select
            from pushq.jobs_unfinished as its
            where its.status = 'queued' and its.apart = 'solo' and its.queue = job.queue
            and (its.priority, its.run_at, its.id) < (job.priority, job.run_at, job.id)
            limit 1000
        ) as before;
        return query select
            'suspect',
            format('has killed %s processes, and waits for a process of its own', job.crashes)
                || case when ahead > 0 then format(', behind %s such jobs', ahead) else '' end,
            jsonb_build_object('crashes', job.crashes, 'jobs', ahead);
    end if;

    if job.attempt = 0 and job.limit_key is not null and pushq.must_wait(job.limit_key) then
        return query
        select
            'order',
            format('waits for %s of the same key, which is tried again at %s', coalesce('job ' || begun.id, 'another job'),
                date_trunc('second', begun.run_at)),
            jsonb_build_object('key', job.limit_key, 'for', begun.id, 'due_at', begun.run_at)
        from (
            select case when pushq.may_touch(its.tenant_id) then its.id end as id, its.run_at
            from pushq.jobs_unfinished as its
            where its.status = 'queued' and its.needs is not null and its.limit_key collate "C" = job.limit_key and its.attempt > 0
            order by its.run_at
            limit 1
        ) as begun;
    end if;
    if job.needs is not null then
        return query select * from pushq.what_is_short(job.needs);
        if not found and job.apart = 'lane' and job.run_at <= clock_timestamp() and serving.supervisors > 0 then
            return query
            select
                'reserved',
                format('what it needs of %L is reserved for %s, which has waited for longer', reserved.name,
                    coalesce('job ' || whose.id, 'another job')),
                jsonb_build_object('name', reserved.name, 'for', whose.id)
            from pushq.reserved_for(job.id, serving.queues, serving.tasks) as reserved
            cross join lateral (select case when pushq.may_touch(reserved.tenant_id) then reserved.before_id end) as whose (id);
        end if;
    end if;
    if job.apart = 'solo' then
        return;
    end if;

    if job.apart = 'fair' then
        select count(*) into ahead
        from (
            select
            from pushq.jobs_unfinished as its
            where its.status = 'queued' and its.apart = 'fair' and its.queue collate "C" = job.queue and its.share = job.share
            and (its.priority, its.run_at, its.id) < (job.priority, job.run_at, job.id) and its.run_at <= clock_timestamp()
            limit 100001
        ) as before;
    else
        ahead := pushq.position(why.id);
    end if;
    if ahead > 0 then
        if is_open and job.apart is null and ahead <= 100000 then
            seconds := ahead / pushq.recent_rate(job.queue);
        end if;
        return query select
            'behind',
            format(
                'is behind %s of its %s',
                case when ahead > 100000 then 'more than 100,000 jobs' when ahead = 1 then '1 other job' else ahead || ' other jobs' end,
                case when job.apart = 'fair' then 'share of the queue' else 'queue' end)
            || coalesce('; at the rate of late, some ' || round(seconds::numeric, 1) || ' s', ''),
            jsonb_build_object('jobs', ahead, 'seconds', seconds);
    end if;
    if serving.workers > 0 and serving.idle = 0 then
        return query select
            'busy',
            case serving.workers when 1 then 'the one worker that may run the job is busy'
                else format('all %s workers that may run the job are busy', serving.workers) end,
            jsonb_build_object('workers', serving.workers);
    end if;
end
$$;

-- Why jobs of a queue wait: each cause as a sentence and as data, the most lasting first, the size of the queue last. For those who may
-- know of all tenants.
--
--   cause      detail
--   paused, unserved: as in pushq.why()
--   unknown    {"tasks": [up to 20 names]}: of jobs that wait, and no live supervisor that serves the queue knows; of jobs with
--              needs, and of a fair queue, ten thousand are looked at
--   full       as needs in pushq.why(), of the queue's own capacity
--   rate       {"name", "next_at"}: of the queue's own rate
--   later      {"due_at"}: no job is due before
--   suspects   {"jobs"}: up to 1,000, each waits for a process of its own
--   needs      {"name", "units", "capacity", "free", "holders", "jobs"}: so many of ten thousand jobs with needs wait for the
--              name, of which they need up to so many units, more than are free or than the capacity; the twenty for which most wait
--   rates      {"name", "units", "next_at", "jobs"}: the same for the rate of a name; next_at is null if the jobs need more than the
--              burst
--   busy       {"workers": count}
--   queued     {"jobs": count, "seconds": estimate or null}; jobs is 100001 for more than 100,000
create function pushq.why_queue(queue text) returns table (cause text, sentence text, detail jsonb)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
set enable_hashjoin = on
as $$
#variable_conflict use_column
declare
    most constant int := 100001;
    its_name constant text := 'queue:' || why_queue.queue;
    serving record;
    unknown text[];
    is_open boolean;
    due_at timestamptz;
    jobs bigint;
    seconds float8;
begin
    if coalesce(why_queue.queue, '') = '' then
        raise invalid_parameter_value using
            message = format('pushq.why_queue(%L): name a queue; pushq.queues lists them', why_queue.queue);
    end if;
    return query select * from pushq.why_closed(why_queue.queue);
    is_open := not found;
    select * into serving from pushq.serving(why_queue.queue);
    if serving.supervisors > 0 then
        unknown := array(
            select queued.task collate "C"
            from unnest(pushq.tasks_in(why_queue.queue) || pushq.tasks_apart_in(why_queue.queue)) as queued (task)
            where queued.task <> all(serving.tasks)
            group by queued.task collate "C"
            order by queued.task collate "C"
            limit 20);
        if cardinality(unknown) > 0 then
            return query select
                'unknown',
                format('no live supervisor that serves the queue knows %s %s',
                    case cardinality(unknown) when 1 then 'task' else 'tasks' end,
                    (select string_agg(quote_literal(task), ', ') from unnest(unknown) as task)),
                jsonb_build_object('tasks', unknown);
        end if;
    end if;

    return query
    select case short.cause when 'needs' then 'full' else short.cause end, short.sentence, short.detail
    from pushq.what_is_short(jsonb_build_object(its_name, 1)) as short;

    jobs := pushq.queued_in(why_queue.queue, most);
    if jobs > 0 then
        due_at := pushq.first_due(why_queue.queue);
        if due_at > clock_timestamp() then
            return query select
                'later', format('no job is due before %s', date_trunc('second', due_at)), jsonb_build_object('due_at', due_at);
        end if;
        return query
        select
            'suspects',
            format('%s killed two processes, and %s for a process of %s own',
                case suspect.jobs when 1 then '1 job has' else suspect.jobs || ' jobs have' end,
                case suspect.jobs when 1 then 'waits' else 'wait' end, case suspect.jobs when 1 then 'its' else 'their' end),
            jsonb_build_object('jobs', suspect.jobs)
        from (
            select count(*) as jobs
            from (
                select
                from pushq.jobs_unfinished as its
                where its.status = 'queued' and its.apart = 'solo' and its.queue = why_queue.queue
                limit 1000
            ) as counted
        ) as suspect
        where suspect.jobs > 0;

        return query
        with wanted as materialized (
            select need.key as name, need.value::int as units, sum(alike.jobs)::int as jobs
            from (
                select urgent.needs, count(*) as jobs
                from (
                    select its.needs
                    from pushq.jobs_unfinished as its
                    where its.status = 'queued' and its.apart in ('lane', 'fair') and its.queue = why_queue.queue
                    limit 10000
                ) as urgent
                group by urgent.needs
            ) as alike
            cross join lateral jsonb_each(alike.needs) as need
            where need.key <> its_name
            group by need.key, need.value::int
        ),
        named as materialized (
            select array_agg(distinct wanted.name) as names from wanted
        ),
        short as (
            select
                trouble.kind, wanted.name, sum(wanted.jobs)::int as jobs, max(wanted.units) as units,
                rule.capacity, greatest(free.capacity_left, 0) as free, free.burst,
                min(case when trouble.kind = 'rated' then pushq.whole_for(free.whole_at, free.burst - wanted.units, free.rate) end)
                    as next_at
            from wanted
            join pushq.free((select names from named)) as free on free.name = wanted.name
            join pushq.rules((select names from named)) as rule on rule.name = wanted.name
            cross join lateral (
                select case
                    when rule.capacity = 0 then 'closed'
                    when wanted.units > rule.capacity then 'over capacity'
                    when wanted.units > free.capacity_left then 'held'
                    when free.rate is not null and wanted.units > free.burst then 'over burst'
                    when wanted.units > free.units then 'rated'
                end
            ) as trouble (kind)
            where trouble.kind is not null
            group by trouble.kind, wanted.name, rule.capacity, free.capacity_left, free.burst
            order by jobs desc, wanted.name, trouble.kind
            limit 20
        )
        select
            case when short.kind in ('over burst', 'rated') then 'rates' else 'needs' end,
            case
                when short.kind in ('over capacity', 'over burst') then
                    case short.jobs when 1 then '1 job needs ' || short.units else format('%s jobs need up to %s', short.jobs, short.units) end
                else case short.jobs when 1 then '1 job waits for' else short.jobs || ' jobs wait for' end
            end
            || case when short.kind in ('over capacity', 'over burst') then format(' of %L, ', short.name) else format(' %L, ', short.name) end
            || case short.kind
                when 'closed' then 'which is closed: its capacity is 0'
                when 'over capacity' then format('whose capacity is %s', short.capacity)
                when 'held' then format(
                    'of which %s of %s free', short.free, case short.capacity when 1 then '1 is' else short.capacity || ' are' end)
                when 'over burst' then format('of which %s may be taken at once', short.burst)
                else format('whose rate allows the next at %s', date_trunc('milliseconds', short.next_at))
            end,
            case when short.kind in ('over burst', 'rated')
                then jsonb_build_object('name', short.name, 'units', short.units, 'next_at', short.next_at, 'jobs', short.jobs)
                else jsonb_build_object(
                    'name', short.name, 'units', short.units, 'capacity', short.capacity, 'free', short.free,
                    'holders', holder.jobs, 'jobs', short.jobs)
            end
        from short
        cross join lateral (
            select count(*) as jobs
            from pushq.jobs_unfinished as its
            where its.status = 'running' and its.needs is not null and its.attempt > 0 and its.needs ? short.name
        ) as holder
        order by short.jobs desc, short.name, short.kind;

        if serving.workers > 0 and serving.idle = 0 then
            return query select
                'busy',
                case serving.workers when 1 then 'the one worker that serves the queue is busy'
                    else format('all %s workers that serve the queue are busy', serving.workers) end,
                jsonb_build_object('workers', serving.workers);
        end if;
        if is_open and jobs < most then
            seconds := jobs / pushq.recent_rate(why_queue.queue);
        end if;
        return query select
            'queued',
            case when jobs = most then 'more than 100,000 jobs are queued' when jobs = 1 then '1 job is queued'
                else jobs || ' jobs are queued' end
            || coalesce('; at the rate of late, for some ' || round(seconds::numeric, 1) || ' s', ''),
            jsonb_build_object('jobs', jobs, 'seconds', seconds);
    end if;
end
$$;

-- The tasks of the ten thousand most urgent jobs of a queue that are apart, of each kind.
create function pushq.tasks_apart_in(queue text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select distinct urgent.task collate "C"
        from unnest('{lane,fair,solo}'::text[]) as apart (kind)
        cross join lateral (
            select job.task
            from pushq.jobs_unfinished as job
            where job.status = 'queued' and job.apart = apart.kind and job.queue = tasks_apart_in.queue
            order by job.priority, job.run_at, job.id
            limit 10000
        ) as urgent);
end
$$;

-- How many jobs are queued in a queue, counted up to `most`.
create function pushq.queued_in(queue text, most int) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    return (
        select count(*)
        from (
            (
                select
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority = 0 and job.queue collate "C" = queued_in.queue
                limit queued_in.most
            )
            union all
            (
                select
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = queued_in.queue
                limit queued_in.most
            )
            union all
            (
                select
                from unnest('{lane,fair,solo}'::text[]) as apart (kind)
                cross join lateral (
                    select
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = apart.kind and job.queue = queued_in.queue
                    limit queued_in.most
                ) as its
            )
            limit queued_in.most
        ) as every
    );
end
$$;

-- When the first queued job of a queue is due; if one is due already, when one was. Of jobs apart, a hundred priorities of each kind
-- are looked at.
create function pushq.first_due(queue text) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    tasks constant text[] := pushq.tasks_in(first_due.queue);
begin
    return least(
        (
            select min(first.run_at)
            from unnest(tasks) as known (task)
            cross join lateral (
                select job.run_at
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart is null and job.priority = 0
                and job.queue collate "C" = first_due.queue and job.task collate "C" = known.task
                order by job.run_at
                limit 1
            ) as first
        ),
        -- Jobs of other priorities: those that were inserted for later, by run_at, and those that have been due since.
        (
            select min(first.run_at)
            from unnest(tasks) as known (task)
            cross join (values (-1), (1)) as side (sign)
            cross join lateral (
                (
                    select job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = first_due.queue
                    and sign(job.priority) = side.sign and job.task collate "C" = known.task
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) = -32769
                    order by job.run_at
                    limit 1
                )
                union all
                (
                    select job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart is null and job.priority <> 0 and job.queue collate "C" = first_due.queue
                    and sign(job.priority) = side.sign and job.task collate "C" = known.task
                    and (case when job.run_at <= job.enqueued_at then job.priority else -32769 end) > -32769
                    limit 1
                )
            ) as first
        ),
        (
            with recursive level as (
                select first.*, 1 as place
                from unnest('{lane,fair,solo}'::text[]) as apart (kind)
                cross join lateral (
                    select apart.kind, job.priority, job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = apart.kind and job.queue = first_due.queue
                    order by job.priority, job.run_at
                    limit 1
                ) as first
                union all
                select following.*, level.place + 1
                from level
                cross join lateral (
                    select level.kind, job.priority, job.run_at
                    from pushq.jobs_unfinished as job
                    where job.status = 'queued' and job.apart = level.kind and job.queue = first_due.queue
                    and job.priority > level.priority
                    order by job.priority, job.run_at
                    limit 1
                ) as following
                where level.place < 100
            )
            select min(level.run_at) from level
        ));
end
$$;

revoke execute on function
    pushq.position(uuid), pushq.why(uuid), pushq.why_queue(text), pushq.recent_rate(text)
    from public;

do $$
begin
    execute replace(
        pg_get_functiondef('pushq.grant_to_tenants()'::regprocedure),
        'pushq.cancel(uuid, text), ', 'pushq.cancel(uuid, text), pushq.position(uuid), pushq.why(uuid), ');
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.grant_to_tenants();
    end if;
end
$$;


-- Limits ---------------------------------------------------------------------------------------------------------

-- Refuses a rule that cannot be, in a sentence.
create function pushq.check_limit(name text, capacity int, rate double precision, burst int, strict boolean) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    kind text := pushq.kind_of_need(check_limit.name);
    whose text := substr(check_limit.name, length(kind) + 2);
    trouble text;
begin
    trouble := case
        when coalesce(check_limit.name, '') = '' then 'name a resource or a kind of jobs'
        when length(check_limit.name) > 210 then format('a name has at most 210 characters, not %s', length(check_limit.name))
        when check_limit.name = 'queue:*' then 'name a queue; no limit is for all queues'
        when whose = '' then format('say which %s, after the colon; * for all', kind)
        when kind = 'queue' and length(whose) > 200 then
            format('the name of a queue has at most 200 characters, not %s', length(whose))
        when kind is null and check_limit.name like '%:*' then
            'a rule for all names of a kind is for key:*, tenant:*, task:* or affinity:*; name each resource'
        when check_limit.capacity < 0 then
            format('a capacity is 0 or more, not %s; 0 lets no job begin', check_limit.capacity)
        when check_limit.rate not between 1e-7 and 1e6 then
            format('a rate is 0.0000001 to 1000000 a second, not %s; to let no job begin, set the capacity to 0', check_limit.rate)
        when check_limit.burst not between 1 and 1000000 then
            format('a burst is 1 to 1000000, not %s', check_limit.burst)
        when check_limit.burst > 1 and check_limit.rate is null then
            format('a burst of %s needs a rate', check_limit.burst)
        when check_limit.burst > 3.2e8 * check_limit.rate then
            format('at a rate of %s, a burst of %s would be whole again after more than 10 years', check_limit.rate, check_limit.burst)
        when check_limit.strict and kind is distinct from 'key' then
            'only keys can be strict: key:K, or key:* for all'
    end;
    if trouble is not null then
        raise invalid_parameter_value using message = format('pushq.limit(%L): %s', left(check_limit.name, 220), trouble);
    end if;
end
$$;

-- Chooses how many units of a name jobs may hold at once, and how many may be taken a second; null: any number. name: a resource, or
-- queue:Q, key:K, tenant:T, task:T, affinity:M for as many jobs; key:*, tenant:*, task:* and affinity:* for all that have no rule of
-- their own. strict: of a key, whether a job that is to be tried again keeps its place before those that have not begun. Returns
-- 'limited', or 'as before'.
--
-- Jobs that are there already, without the name among their needs, get the name from pushq.stamp(), which sweepers call.
create function pushq.limit(
    name text, capacity int default null, rate double precision default null, burst int default 1, strict boolean default false)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform pushq.check_limit("limit".name, "limit".capacity, "limit".rate, "limit".burst, "limit".strict);
    if pushq.kind_of_need("limit".name) = 'queue' then
        insert into pushq.queues as known (name, capacity, rate, burst)
        values (substr("limit".name, 7), "limit".capacity, "limit".rate, coalesce("limit".burst, 1))
        on conflict (name) do update set capacity = excluded.capacity, rate = excluded.rate, burst = excluded.burst
            where (known.capacity, known.rate, known.burst) is distinct from (excluded.capacity, excluded.rate, excluded.burst);
    else
        insert into pushq.resources as known (name, capacity, rate, burst, strict)
        values ("limit".name, "limit".capacity, "limit".rate, coalesce("limit".burst, 1), coalesce("limit".strict, false))
        on conflict (name) do update
        set capacity = excluded.capacity, rate = excluded.rate, burst = excluded.burst, strict = excluded.strict
        where (known.capacity, known.rate, known.burst, known.strict)
            is distinct from (excluded.capacity, excluded.rate, excluded.burst, excluded.strict);
    end if;
    return case when found then 'limited' else 'as before' end;
end
$$;

-- Takes a rule away. Returns 'removed', or 'no rule'. Then a resource or a key has capacity 1, and the others any.
create function pushq.unlimit(name text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if pushq.kind_of_need(unlimit.name) = 'queue' then
        update pushq.queues as known set capacity = null, rate = null, burst = 1
        where known.name = substr(unlimit.name, 7) and (known.capacity is not null or known.rate is not null);
    else
        delete from pushq.resources as known where known.name = unlimit.name;
    end if;
    return case when found then 'removed' else 'no rule' end;
end
$$;

-- Gives unfinished jobs, running ones too, the needs and shares that rules of their queues, tasks and tenants say: looks at up to `most` jobs after
-- the id `after`, in the order of ids. Returns how many it looked at, how many were changed, and the last id, after which to go on;
-- null: all jobs have been looked at. A job that somebody else has locked is left to the next pass.
create function pushq.stamp(after uuid default null, most int default 2000) returns table (looked int, stamped int, last uuid)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_variable
declare
    fair_queues text[] := array(select known.name from pushq.queues as known where known.fair is not null);
    ids uuid[];
begin
    with seen as materialized (
        select job.id, job.queue, job.task, job.tenant_id, job.limit_key, job.share, job.needs
        from pushq.jobs_unfinished as job
        where job.id >= coalesce(stamp.after, '00000000-0000-0000-0000-000000000000') and job.id is distinct from stamp.after
        order by job.id
        limit stamp.most
    )
    select
        (select count(*) from seen), (select id from seen order by id desc limit 1),
        array(
            select its.id
            from (
                select
                    array_agg(seen.id) as ids, array_agg(seen.needs) as all_needs,
                    array(
                        select jsonb_object_keys(pushq.all_needs(null, null, null, seen.queue, seen.task, seen.tenant_id))) as names
                from seen
                group by seen.queue, seen.task, seen.tenant_id
            ) as alike
            cross join lateral unnest(alike.ids, alike.all_needs) as its (id, needs)
            where cardinality(alike.names) > 0 and (its.needs is null or not its.needs ?& alike.names)
            union
            select seen.id
            from seen
            where (seen.share <> '' or seen.queue = any(fair_queues))
            and nullif(seen.share, '') is distinct from pushq.share(seen.queue, seen.tenant_id, seen.limit_key)
            order by id
        )
    into looked, last, ids;
    ids := array(
        select job.id
        from unnest(ids) as lacking (id)
        cross join lateral (
            select its.id from pushq.jobs_unfinished as its where its.id = lacking.id for no key update skip locked
        ) as job);
    update pushq.jobs_unfinished as job set needs = job.needs where job.id = any(ids);
    get diagnostics stamped = row_count;
    last := case when looked = stamp.most then last end;
    return next;
end
$$;

-- Deletes rows of rates whose bursts are whole again: no row says the same. Waits for no lock, so that no deadlock arises. Returns how
-- many.
create function pushq.forget_tokens(most int default 10000) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    forgotten int;
begin
    delete from pushq.tokens as token
    where token.name = any(array(
        select past.name
        from pushq.tokens as past
        where past.whole_at < clock_timestamp()
        limit forget_tokens.most
        for update skip locked));
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;


-- Suspects -------------------------------------------------------------------------------------------------------

-- The twenty most urgent due suspects, jobs that have killed two processes, of the queues and the tasks, but for the given ones. Not
-- those that need a spent name: a process started for such a suspect would find nothing to do.
create function pushq.due_suspects(queues text[], tasks text[], but uuid[]) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    spent text[];
begin
    if not exists (select from pushq.jobs_unfinished as job where job.status = 'queued' and job.apart = 'solo') then
        return '{}';
    end if;
    spent := pushq.spent_names(true);
    return array(
        select job.id
        from pushq.jobs_unfinished as job
        where job.status = 'queued' and job.apart = 'solo'
        and job.queue in (select open.name from pushq.open_queues(due_suspects.queues) as open)
        and job.run_at <= clock_timestamp() and job.task = any(due_suspects.tasks) and job.id <> all(due_suspects.but)
        and (job.needs is null or not job.needs ?| spent)
        order by job.priority, job.run_at, job.id
        limit 20);
end
$$;

do $$
begin
    execute replace(
        pg_get_functiondef('pushq.lock_suspect(text, text[], text)'::regprocedure),
        'and job.run_at <= clock_timestamp()',
        'and (job.needs is null or not job.needs ?| (select pushq.spent_names(true))) and job.run_at <= clock_timestamp()');
end
$$;


-- Tenants that go ------------------------------------------------------------------------------------------------

-- Running jobs that pushq.delete_tenant() deletes give their units back.
do $$
begin
    execute replace(replace(replace(replace(replace(
        pg_get_functiondef('pushq.delete_tenant(text, int)'::regprocedure),
        '#variable_conflict use_column', '#variable_conflict use_variable'),
        'returning job.id, job.token', 'returning job.id, job.token, job.status = ''running'' and job.lane is not null as gave_units'),
        'select count(*) into more from gone', 'select count(*), bool_or(gone.gave_units) into more, gave_units from gone'),
        'has_events boolean;', 'has_events boolean;
    gave_units boolean;'),
        'deleted := deleted + more;', 'deleted := deleted + more;
        if gave_units then
            perform pushq.ring_for_units();
        end if;');
end
$$;
