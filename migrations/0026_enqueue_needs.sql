-- pushq.enqueue() and pushq.enqueue_many() say what jobs need. And what tasks need is checked as what jobs need.

insert into pushq.migrations (version, name) values (26, '0026_enqueue_needs');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 26;

alter table pushq.tasks
    -- squawk-ignore constraint-missing-not-valid
    add constraint tasks_needs_are_as_those_of_jobs check (pushq.broken_rule_of_needs(needs, null, null) is null);


-- Calls ----------------------------------------------------------------------------------------------------------

-- As pushq.find_standing() of 0022_webhooks, and what the job needs is replaced too.
create function pushq.meet_standing(
    task text, payload jsonb, queue text, priority smallint, run_at timestamptz, max_attempts int, timeout interval,
    unique_key text, tenant_id text, correlation_id text, is_replaced boolean, key_window interval, longest_delay interval,
    webhook_url text, traceparent text, needs jsonb, limit_key text, affinity text)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_variable
declare
    its_id uuid;
    was record;
    due timestamptz;
    its_lane text;
    broken_rule text;
begin
    if meet_standing.queue = 'pushq.webhooks' then
        perform pushq.refuse_job('jobs_queue_pushq_webhooks_is_for_pushq');
    end if;
    perform pushq.refuse_other_tenant(meet_standing.tenant_id);
    if meet_standing.is_replaced then
        broken_rule := pushq.broken_rule_of_needs(meet_standing.needs, meet_standing.limit_key, meet_standing.affinity);
        if broken_rule is not null then
            perform pushq.refuse_job(broken_rule);
        end if;
    end if;
    if meet_standing.tenant_id is null then
        select job.id into its_id
        from pushq.jobs_unfinished as job
        where job.tenant_id is null and job.unique_key = meet_standing.unique_key;
    else
        select job.id into its_id
        from pushq.jobs_unfinished as job
        where job.tenant_id = meet_standing.tenant_id and job.unique_key = meet_standing.unique_key;
    end if;
    if its_id is null then
        return null;
    end if;
    if meet_standing.is_replaced then
        select job.status, job.task, job.queue, job.run_at, job.enqueued_at, job.attempt, job.lane into was
        from pushq.jobs_unfinished as job
        where job.id = its_id and job.unique_key = meet_standing.unique_key
        for update;
        if not found then
            return null;  -- ended meanwhile
        elsif was.status = 'queued' then
            due := least(
                coalesce(meet_standing.run_at, least(was.run_at, clock_timestamp())), was.enqueued_at + meet_standing.longest_delay);
            update pushq.jobs_unfinished as job
            set task = meet_standing.task,
                payload = meet_standing.payload,
                queue = meet_standing.queue,
                priority = meet_standing.priority,
                run_at = due,
                max_attempts = meet_standing.max_attempts,
                timeout = meet_standing.timeout,
                correlation_id = meet_standing.correlation_id,
                webhook_url = meet_standing.webhook_url,
                traceparent = meet_standing.traceparent,
                needs = meet_standing.needs,
                limit_key = meet_standing.limit_key,
                affinity = meet_standing.affinity,
                progress = null
            where job.id = its_id
            returning job.lane into its_lane;
            if not found then
                perform pushq.refuse_change(its_id);
            end if;
            if due < was.run_at or meet_standing.queue <> was.queue or meet_standing.task <> was.task
                or its_lane is distinct from was.lane then
                perform pushq.ring_if_idle(meet_standing.queue);
            end if;
            if pushq.is_noted(meet_standing.queue, meet_standing.task, meet_standing.tenant_id) then
                perform pushq.note_changes(
                    null, '{}', array[its_id], array[meet_standing.tenant_id], array[was.attempt], '{queued}', '{edited}', null,
                    null, null, pushq.actor());
            end if;
        end if;
    end if;
    if meet_standing.key_window is not null then
        perform pushq.note_window(
            meet_standing.unique_key, meet_standing.tenant_id, its_id, job.enqueued_at + meet_standing.key_window)
        from pushq.jobs_unfinished as job
        where job.id = its_id;
        if not found then
            return null;
        end if;
    end if;
    return its_id;
end
$$;

-- For calls that have begun before this migration.
create or replace function pushq.find_standing(
    task text, payload jsonb, queue text, priority smallint, run_at timestamptz, max_attempts int, timeout interval,
    unique_key text, tenant_id text, correlation_id text, is_replaced boolean, key_window interval, longest_delay interval,
    webhook_url text, traceparent text)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return pushq.meet_standing(
        find_standing.task, find_standing.payload, find_standing.queue, find_standing.priority, find_standing.run_at,
        find_standing.max_attempts, find_standing.timeout, find_standing.unique_key, find_standing.tenant_id,
        find_standing.correlation_id, find_standing.is_replaced, find_standing.key_window, find_standing.longest_delay,
        find_standing.webhook_url, find_standing.traceparent, null, null, null);
end
$$;

-- Renamed and not dropped: a session may be about to call the function that its statement has found.
alter function pushq.enqueue(
    text, jsonb, text, int, timestamptz, int, interval, text, text, text, text[], text, interval, interval, text, text)
    -- squawk-ignore renaming-object
    rename to enqueue_without_needs;
create function pushq.enqueue(
    task text, payload jsonb default '{}', queue text default 'default', priority int default 0,
    run_at timestamptz default null, max_attempts int default null, timeout interval default null,
    unique_key text default null, tenant_id text default null, correlation_id text default null, waiters text[] default null,
    standing text default 'keep', key_window interval default null, longest_delay interval default null,
    webhook_url text default null, traceparent text default null,
    needs jsonb default null, limit_key text default null, affinity text default null, out id uuid, out inserted boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    its_payload jsonb := coalesce(enqueue.payload, '{}');
    its_queue text := coalesce(enqueue.queue, 'default');
    its_priority smallint;
    is_replaced boolean := enqueue.standing = 'replace';
    within_window uuid;
begin
    if enqueue.task is null then
        raise invalid_parameter_value using message = 'pushq.enqueue: name the task, not null';
    elsif enqueue.priority not between -32768 and 32767 then
        raise invalid_parameter_value using message = format(
            'pushq.enqueue: a priority is a number from -32768 to 32767, not %s', enqueue.priority);
    elsif enqueue.standing <> 'keep' or enqueue.key_window is not null or enqueue.longest_delay is not null then
        perform pushq.check_enqueue(enqueue.standing, enqueue.key_window, enqueue.longest_delay);
    end if;
    its_priority := coalesce(enqueue.priority, 0);
    if enqueue.key_window is not null then
        if enqueue.unique_key is null then
            raise invalid_parameter_value using message = format(
                'pushq.enqueue: a key_window (%s) is a key''s; give the unique_key', enqueue.key_window);
        end if;
        within_window := pushq.open_window(enqueue.unique_key, enqueue.tenant_id, enqueue.key_window);
        if within_window is not null then
            if is_replaced then
                enqueue.id := pushq.meet_standing(
                    enqueue.task, its_payload, its_queue, its_priority, enqueue.run_at, enqueue.max_attempts, enqueue.timeout,
                    enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, true, null, enqueue.longest_delay,
                    enqueue.webhook_url, enqueue.traceparent, enqueue.needs, enqueue.limit_key, enqueue.affinity);
            end if;
            enqueue.id := coalesce(enqueue.id, within_window);
            enqueue.inserted := false;
            return;
        end if;
    end if;
    for _ in 1..100 loop
        insert into pushq.jobs (
            task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters,
            webhook_url, traceparent, needs, limit_key, affinity)
        values (
            enqueue.task, its_payload, its_queue, its_priority,
            least(coalesce(enqueue.run_at, now()), now() + enqueue.longest_delay), enqueue.max_attempts, enqueue.timeout,
            enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, enqueue.waiters, enqueue.webhook_url,
            enqueue.traceparent, enqueue.needs, enqueue.limit_key, enqueue.affinity)
        on conflict do nothing
        returning jobs.id into enqueue.id;
        enqueue.inserted := found;
        if enqueue.inserted then
            if enqueue.key_window is not null then
                perform pushq.note_window(enqueue.unique_key, enqueue.tenant_id, enqueue.id);
            end if;
            return;
        end if;
        exit when enqueue.unique_key is null;
        enqueue.id := pushq.meet_standing(
            enqueue.task, its_payload, its_queue, its_priority, enqueue.run_at, enqueue.max_attempts, enqueue.timeout,
            enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, is_replaced, enqueue.key_window, enqueue.longest_delay,
            enqueue.webhook_url, enqueue.traceparent, enqueue.needs, enqueue.limit_key, enqueue.affinity);
        if enqueue.id is not null then
            return;
        end if;
        -- The job with the key ended between the two statements.
    end loop;
    raise insufficient_privilege using message = format(
        'pushq.enqueue: the %s job was not inserted, and no job with its key stands in its way: a trigger or a unique index '
        'of your own says so', enqueue.task);
end
$$;

create or replace function pushq.enqueue_without_needs(
    task text, payload jsonb default '{}', queue text default 'default', priority int default 0,
    run_at timestamptz default null, max_attempts int default null, timeout interval default null,
    unique_key text default null, tenant_id text default null, correlation_id text default null, waiters text[] default null,
    standing text default 'keep', key_window interval default null, longest_delay interval default null,
    webhook_url text default null, traceparent text default null, out id uuid, out inserted boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    done record;
begin
    done := pushq.enqueue(
        enqueue_without_needs.task, enqueue_without_needs.payload, enqueue_without_needs.queue, enqueue_without_needs.priority,
        enqueue_without_needs.run_at, enqueue_without_needs.max_attempts, enqueue_without_needs.timeout,
        enqueue_without_needs.unique_key, enqueue_without_needs.tenant_id, enqueue_without_needs.correlation_id,
        enqueue_without_needs.waiters, enqueue_without_needs.standing, enqueue_without_needs.key_window,
        enqueue_without_needs.longest_delay, enqueue_without_needs.webhook_url, enqueue_without_needs.traceparent);
    enqueue_without_needs.id := done.id;
    enqueue_without_needs.inserted := done.inserted;
end
$$;

-- As in 0022_webhooks.
create or replace function pushq.enqueue_many(
    jobs jsonb, standing text default 'keep', key_window interval default null, longest_delay interval default null)
returns table (place int, id uuid, inserted boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known text[] := '{task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters, '
        'webhook_url, traceparent, needs, limit_key, affinity}';
    fault text;
    job record;
    done record;
    ids uuid[];
    were_inserted boolean[];
begin
    if jsonb_typeof(enqueue_many.jobs) is distinct from 'array' then
        raise invalid_parameter_value using message = format(
            'pushq.enqueue_many: jobs is an array, [{"task": "mail.welcome"}, …], not %s',
            coalesce('a JSON ' || jsonb_typeof(enqueue_many.jobs), 'null'));
    end if;
    perform pushq.check_enqueue(enqueue_many.standing, enqueue_many.key_window, enqueue_many.longest_delay);
    select format('pushq.enqueue_many: job %s %s', given.place, found.fault) into fault
    from jsonb_array_elements(enqueue_many.jobs) with ordinality as given (job, place)
    cross join lateral (
        select case
            when jsonb_typeof(given.job) <> 'object' then format('is a JSON %s, not an object', jsonb_typeof(given.job))
            when given.job - known <> '{}' then format(
                'names %s; name only %s',
                (select string_agg(name, ', ') from jsonb_object_keys(given.job - known) as name), array_to_string(known, ', '))
            when given.job ->> 'task' is null then 'has no task; name it'
            when enqueue_many.key_window is not null and given.job ->> 'unique_key' is null then format(
                'has no unique_key, and a key_window (%s) is a key''s; give the unique_key', enqueue_many.key_window)
        end as fault
    ) as found
    where found.fault is not null
    order by given.place
    limit 1;
    if fault is not null then
        raise invalid_parameter_value using message = fault;
    end if;
    -- As pushq's INSERT of many jobs is ordered.
    for job in
        select given.*
        from rows from (
            jsonb_to_recordset(enqueue_many.jobs) as (
                task text, payload jsonb, queue text, priority int, run_at timestamptz, max_attempts int, timeout interval,
                unique_key text, tenant_id text, correlation_id text, waiters text[], webhook_url text, traceparent text,
                needs jsonb, limit_key text, affinity text)
        ) with ordinality as given (
            task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters,
            webhook_url, traceparent, needs, limit_key, affinity, place)
        order by given.unique_key, given.tenant_id, given.place
    loop
        done := pushq.enqueue(
            job.task, job.payload, job.queue, job.priority, job.run_at, job.max_attempts, job.timeout, job.unique_key,
            job.tenant_id, job.correlation_id, job.waiters, enqueue_many.standing, enqueue_many.key_window,
            enqueue_many.longest_delay, job.webhook_url, job.traceparent, job.needs, job.limit_key, job.affinity);
        ids[job.place] := done.id;
        were_inserted[job.place] := done.inserted;
    end loop;
    return query
    select given.place::int, given.id, given.inserted
    from unnest(ids, were_inserted) with ordinality as given (id, inserted, place);
end
$$;


-- Rights ---------------------------------------------------------------------------------------------------------

revoke execute on function
    pushq.meet_standing(
        text, jsonb, text, smallint, timestamptz, int, interval, text, text, text, boolean, interval, interval, text, text,
        jsonb, text, text)
    from public;

-- Whoever may insert jobs with a key may say what jobs need.
do $$
declare
    its_role text;
begin
    for its_role in
        select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
        from (
            select relowner, (aclexplode(relacl)).* from pg_class where oid = 'pushq.jobs'::regclass
            union all
            select relowner, (aclexplode(attacl)).*
            from pg_attribute
            join pg_class on pg_class.oid = attrelid
            where attrelid = 'pushq.jobs'::regclass and attname = 'unique_key'
        ) as held
        where privilege_type = 'INSERT' and grantee <> relowner
    loop
        execute format(
            'grant execute on function pushq.enqueue, pushq.meet_standing to %1$s; '
            'grant insert (needs, limit_key, affinity) on pushq.jobs to %1$s',
            its_role);
    end loop;
    execute replace(
        pg_get_functiondef('pushq.grant_to_tenants()'::regprocedure),
        'pushq.find_standing,', 'pushq.find_standing, pushq.meet_standing,');
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.grant_to_tenants();
    end if;
end
$$;
