-- Why a job waits: pushq.position() and pushq.why().

insert into pushq.migrations (version, name) values (25, '0025_why');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 25;

alter table pushq.queues add column paused_by text;
comment on column pushq.queues.paused_by is 'Who paused the queue: login, role, application, pushq.actor.';

-- As in 0006_operate, and notes who.
create or replace function pushq.pause(queue text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pushq.queues as known (name, paused_at, paused_by) values (pause.queue, now(), pushq.actor())
    on conflict (name) do update set paused_at = now(), paused_by = excluded.paused_by where known.paused_at is null;
    return case when found then 'paused' else 'already paused' end;
end
$$;

-- How many jobs of its queue come before a queued job, by (priority, run_at, id), counted up to 100,000: 100,001 means more. Null: the
-- job is not queued, or not the caller's. Each line is counted from the job backwards: a scan forwards would not stop at the job while
-- priorities are equal. Suspects, which wait for a pool of their own, are counted among jobs with needs.
create function pushq.position(id uuid) returns int
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    most constant int := 100001;
    mine record;
    ahead bigint := 0;
    line record;
    more bigint;
begin
    select job.queue, job.priority, job.run_at, job.id into mine
    from pushq.jobs_unfinished as job
    where job.id = position.id and job.status = 'queued' and pushq.may_touch(job.tenant_id);
    if not found then
        return null;
    end if;
    -- Jobs of priority 0.
    if mine.priority >= 0 then
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
                and (mine.priority > 0 or (job.run_at, job.id) < (mine.run_at, mine.id))
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
        select ahead + count(*) into ahead
        from (
            select
            from (values ('lane'), ('solo')) as apart (kind)
            cross join lateral (
                select
                from pushq.jobs_unfinished as job
                where job.status = 'queued' and job.apart = apart.kind and job.queue = mine.queue
                and (job.priority, job.run_at, job.id) < (mine.priority, mine.run_at, mine.id)
                order by job.priority desc, job.run_at desc, job.id desc
                limit most - ahead
            ) as its
            limit most - ahead
        ) as before;
    end if;
    return ahead;
end
$$;

-- Why a queued job does not run: each cause as a sentence and as data, the most lasting first. No row: the next free worker takes the
-- job, or the job is not queued, or not the caller's. Of another tenant's jobs the caller learns numbers alone.
--
--   cause      detail
--   paused     {"queue", "since", "by"}
--   unserved   {"queue"}: no live supervisor serves the queue
--   unknown    {"task"}: no live supervisor that serves the queue knows the task
--   later      {"due_at"}
--   backoff    {"due_at", "error"}
--   needs      {"name", "units", "capacity", "free", "held_by": [ids], "holders": count}
--   rate       {"name", "next_at"}
--   reserved   {"name", "for": id}: for a job that has waited for longer
--   behind     {"jobs": count, "seconds": estimate or null}; jobs is 100001 for more than 100,000
--   busy       {"workers": count}
create function pushq.why(id uuid) returns table (cause text, sentence text, detail jsonb)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    job record;
    workers int;
    ahead int;
    seconds float8;
    short record;
    is_short boolean := false;
begin
    select its.* into job
    from pushq.jobs_unfinished as its
    where its.id = why.id and its.status = 'queued' and pushq.may_touch(its.tenant_id);
    if not found then
        return;
    end if;

    return query
    select
        'paused',
        case queue.name when '*' then 'all queues are paused' else format('queue %L is paused', queue.name) end
            || format(' since %s%s', date_trunc('second', queue.paused_at), ', by ' || queue.paused_by),
        jsonb_build_object('queue', queue.name, 'since', queue.paused_at, 'by', queue.paused_by)
    from pushq.queues as queue
    where queue.name in (job.queue, '*') and queue.paused_at is not null
    order by queue.name = job.queue;

    select sum(live.workers) filter (where job.task = any(live.tasks)), count(*) into workers, ahead
    from pushq.supervisors as live
    where live.lease_until > now() and live.pid > 0 and job.queue = any(live.queues);
    if ahead = 0 then
        return query select 'unserved', format('no live supervisor serves queue %L', job.queue), jsonb_build_object('queue', job.queue);
    elsif workers is null then
        return query select
            'unknown', format('no live supervisor that serves queue %L knows task %L', job.queue, job.task),
            jsonb_build_object('task', job.task);
    end if;

    if job.run_at > now() and job.failures > 0 then
        return query select
            'backoff', format('backs off until %s, after %s', date_trunc('second', job.run_at), coalesce(job.error, 'a failure')),
            jsonb_build_object('due_at', job.run_at, 'error', job.error);
    elsif job.run_at > now() then
        return query select
            'later', format('is due at %s', date_trunc('second', job.run_at)), jsonb_build_object('due_at', job.run_at);
    end if;

    for short in
        select
            free.name, need.value::int as units, rule.capacity, free.capacity_left, free.units as free_units,
            free.whole_at - (free.burst - need.value::int) / free.rate * interval '1 second' as next_at, holder.jobs, holder.ids
        from jsonb_each(coalesce(job.needs, '{}')) as need
        join pushq.free(array(select jsonb_object_keys(coalesce(job.needs, '{}')))) as free on free.name = need.key
        join pushq.rules(array(select jsonb_object_keys(coalesce(job.needs, '{}')))) as rule on rule.name = need.key
        cross join lateral (
            select
                count(*) as jobs,
                (array_agg(its.id order by its.started_at, its.id) filter (where pushq.may_touch(its.tenant_id)))[1:20] as ids
            from pushq.jobs_unfinished as its
            where its.status = 'running' and its.needs is not null and its.needs ? need.key
        ) as holder
        where free.units < need.value::int
        order by need.key
    loop
        is_short := true;
        if short.capacity_left < short.units then
            return query select
                'needs',
                case
                    when short.capacity < short.units then format(
                        'needs %s of %L, whose capacity is %s', short.units, short.name, short.capacity)
                    else format(
                        'needs %s of %L, of which %s of %s free%s', short.units, short.name, greatest(short.capacity_left, 0),
                        case short.capacity when 1 then '1 is' else short.capacity || ' are' end,
                        case when short.jobs > 0 then format(
                            '; %s, %s', case short.jobs when 1 then '1 job holds the rest' else short.jobs || ' jobs hold the rest' end,
                            coalesce('the first being ' || short.ids[1], 'not yours')) end)
                end,
                jsonb_build_object(
                    'name', short.name, 'units', short.units, 'capacity', short.capacity, 'free', greatest(short.capacity_left, 0),
                    'held_by', coalesce(to_jsonb(short.ids), '[]'), 'holders', short.jobs);
        else
            return query select
                'rate', format('the rate of %L allows the next at %s', short.name, short.next_at),
                jsonb_build_object('name', short.name, 'next_at', short.next_at);
        end if;
    end loop;

    if job.needs is not null and job.run_at <= now() and not is_short then
        return query
        select
            'reserved',
            format('what %s needs of %L is reserved for %s, which has waited for longer', 'the job', reserved.name,
                coalesce('job ' || reserved.id, 'a job')),
            jsonb_build_object('name', reserved.name, 'for', reserved.id)
        from (
            select need.key as name, case when pushq.may_touch(before.tenant_id) then before.id end as id
            from (
                select its.id, its.needs, its.tenant_id, its.priority, its.run_at
                from pushq.jobs_unfinished as its
                where its.status = 'queued' and its.apart = 'lane' and its.queue = job.queue
                and (its.priority, its.run_at, its.id) < (job.priority, job.run_at, job.id)
                and its.run_at < now() - interval '1 second'
                order by its.priority, its.run_at, its.id
                limit 100
            ) as before
            cross join lateral jsonb_each(before.needs) as need
            join pushq.free(array(select jsonb_object_keys(job.needs))) as free on free.name = need.key
            where job.needs ? need.key and free.units - need.value::int < (job.needs ->> need.key)::int
            order by before.priority, before.run_at
            limit 1
        ) as reserved;
    end if;

    ahead := pushq.position(why.id);
    if ahead > 0 then
        select ahead * sum(tally.run_seconds) / nullif(sum(tally.jobs), 0) / nullif(workers, 0) into seconds
        from pushq.tallies as tally
        where tally.queue = job.queue and tally.outcome in ('succeeded', 'failed');
        return query select
            'behind',
            format(
                'is behind %s of its queue%s',
                case when ahead > 100000 then 'more than 100,000 jobs' when ahead = 1 then '1 other job' else ahead || ' other jobs' end,
                case when seconds is not null and job.needs is null then format(', which take some %s s', round(seconds::numeric, 1)) end),
            jsonb_build_object('jobs', ahead, 'seconds', case when job.needs is null then seconds end);
    end if;
    if workers > 0 and workers <= (
        select count(*)
        from pushq.jobs_unfinished as its
        join pushq.supervisors as live on live.name = its.supervisor
        where its.status = 'running' and live.lease_until > now() and live.pid > 0 and job.queue = any(live.queues)
        and job.task = any(live.tasks)) then
        return query select
            'busy', format('all %s workers that may run the job are busy', workers), jsonb_build_object('workers', workers);
    end if;
end
$$;

revoke execute on function pushq.position(uuid), pushq.why(uuid) from public;

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

-- Chooses how many units of a name jobs may hold at once, and how many may be taken a second; null: any number. name: a resource, or
-- queue:Q, key:K, tenant:T, task:T for as many jobs; key:*, tenant:* and task:* for all that have no rule of their own. Returns
-- 'limited', or 'as before'.
--
-- Jobs that are there already, without the name among their needs, get it from pushq.stamp().
create function pushq.limit(
    name text, capacity int default null, rate double precision default null, burst int default 1) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if "limit".name is null then
        raise invalid_parameter_value using message = 'pushq.limit: name a resource or a kind of jobs, not null';
    elsif "limit".name = 'queue:*' then
        raise invalid_parameter_value using message = 'pushq.limit: name a queue; there is no limit for all queues';
    elsif pushq.kind_of_need("limit".name) = 'queue' then
        insert into pushq.queues as known (name, capacity, rate, burst)
        values (substr("limit".name, 7), "limit".capacity, "limit".rate, coalesce("limit".burst, 1))
        on conflict (name) do update set capacity = excluded.capacity, rate = excluded.rate, burst = excluded.burst
            where (known.capacity, known.rate, known.burst) is distinct from (excluded.capacity, excluded.rate, excluded.burst);
    else
        insert into pushq.resources as known (name, capacity, rate, burst)
        values ("limit".name, "limit".capacity, "limit".rate, coalesce("limit".burst, 1))
        on conflict (name) do update set capacity = excluded.capacity, rate = excluded.rate, burst = excluded.burst
            where (known.capacity, known.rate, known.burst) is distinct from (excluded.capacity, excluded.rate, excluded.burst);
    end if;
    return case when found then 'limited' else 'as before' end;
end
$$;

-- Takes a rule away. Returns 'removed', or 'no rule'.
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

-- Gives unfinished jobs the needs that rules for queue:Q, tenant:T, task:T, tenant:* or task:* say, and the jobs of a queue their shares, running ones too, and for a task
-- also what pushq.tasks says that the task needs: up to `most` jobs a call. Returns how many: repeat until 0. A job whose transaction
-- was open when the limit was set may be left; so the sweeper calls this too. What a job needs already stays as it is.
create function pushq.stamp(name text, most int default 5000) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    kind text := pushq.kind_of_need(stamp.name);
    whose text := nullif(substr(stamp.name, length(kind) + 2), '*');
    is_limited boolean;
    stamped int;
begin
    if not coalesce(kind in ('queue', 'tenant', 'task'), false) then
        return 0;
    end if;
    is_limited := exists (
        select from pushq.rules(array[stamp.name]) as rule where rule.capacity is not null or rule.rate is not null);
    with known as materialized (
        select task.name, array(select jsonb_object_keys(pushq.as_object(task.needs))) as needs
        from pushq.tasks as task
        where kind = 'task' and task.needs is not null and task.name = coalesce(whose, task.name)
    ),
    lacking as materialized (
        select job.id
        from pushq.jobs_unfinished as job
        left join known on known.name = job.task
        where case kind
            when 'queue' then job.queue = whose
            when 'tenant' then job.tenant_id = coalesce(whose, job.tenant_id)
            else job.task = coalesce(whose, job.task)
        end
        and (
            not coalesce(job.needs, '{}') ?& known.needs
            or kind = 'queue' and job.share is distinct from pushq.share(job.queue, job.tenant_id, job.limit_key)
            or is_limited and not coalesce(job.needs, '{}')
                ? (kind || ':' || case kind when 'queue' then job.queue when 'tenant' then job.tenant_id else job.task end))
        limit stamp.most
        for no key update of job skip locked
    )
    update pushq.jobs_unfinished as job set needs = job.needs
    where job.id = any(array(select id from lacking order by id));
    get diagnostics stamped = row_count;
    return stamped;
end
$$;
