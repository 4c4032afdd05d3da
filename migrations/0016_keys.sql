-- Keys: one call inserts a job, or says which job stands in its way.
--
-- The rows of pushq.jobs are inserted with the caller's rights. What a producer may not read or change, the functions with the
-- owner's rights find and change, for tenants that the caller may touch. A plain INSERT pays nothing for any of this.
--
-- Locks are taken key by key, the window before the job, so that batches in the order of keys never deadlock.

insert into pushq.migrations (version, name) values (16, '0016_keys');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 16;

-- The last job of each key that was enqueued with a window. While the window is open, no call with a window inserts another. Nobody
-- but the functions below reads or writes the table.
create table pushq.unique_windows (
    tenant_id text,
    unique_key text not null,
    job_id uuid,
    until timestamptz not null
);
-- squawk-ignore require-concurrent-index-creation
create unique index unique_windows_key on pushq.unique_windows (tenant_id, unique_key) nulls not distinct;
-- squawk-ignore require-concurrent-index-creation
create index unique_windows_until on pushq.unique_windows (until);

-- For publications of all tables, as the days of jobs have it.
alter table pushq.unique_windows replica identity full;

comment on table pushq.unique_windows is 'Open windows of unique keys. Written by pushq.enqueue(); closed windows go with a sweep.';
comment on column pushq.unique_windows.job_id is 'The job that stands. Null only in the transaction that enqueues it.';
comment on column pushq.unique_windows.until is 'When the window closes.';


-- Windows --------------------------------------------------------------------------------------------------------

-- Raises insufficient_privilege unless the caller may touch jobs of the tenant.
create function pushq.refuse_other_tenant(tenant text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not pushq.may_touch(refuse_other_tenant.tenant) then
        raise insufficient_privilege using message = format(
            'pushq.enqueue: this session may insert no jobs of tenant_id %s; give its own tenant',
            coalesce(quote_literal(refuse_other_tenant.tenant), 'null'));
    end if;
end
$$;

-- Opens the key's window, and returns null. If the window is open already, returns the job that stands. The key's row is locked
-- until the transaction ends, so that callers come one after the other.
create function pushq.open_window(unique_key text, tenant_id text, key_window interval) returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    its_job uuid;
begin
    perform pushq.refuse_other_tenant(open_window.tenant_id);
    -- As the rules of jobs have it, and before the index meets a text that is too long.
    if length(open_window.unique_key) not between 1 and 200 then
        perform pushq.refuse_job('jobs_unique_key_has_1_to_200_characters');
    elsif length(open_window.tenant_id) not between 1 and 200 then
        perform pushq.refuse_job('jobs_tenant_id_has_1_to_200_characters');
    end if;
    insert into pushq.unique_windows as its (tenant_id, unique_key, until)
    values (
        open_window.tenant_id, open_window.unique_key,
        clock_timestamp() + least(open_window.key_window, interval '366 days'))  -- also for whoever calls this by hand
    on conflict (tenant_id, unique_key) do update
    set job_id = null, until = excluded.until
    where its.until <= clock_timestamp() or its.job_id is null;
    if found then
        return null;
    end if;
    select its.job_id into its_job
    from pushq.unique_windows as its
    where its.tenant_id = open_window.tenant_id and its.unique_key = open_window.unique_key
    union all
    select its.job_id
    from pushq.unique_windows as its
    where its.tenant_id is null and open_window.tenant_id is null and its.unique_key = open_window.unique_key;
    return its_job;
end
$$;

-- Writes the job into the window that this transaction has opened. A job that stood before the window was opened closes the window
-- earlier.
create function pushq.note_window(unique_key text, tenant_id text, job_id uuid, until timestamptz default 'infinity')
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    perform pushq.refuse_other_tenant(note_window.tenant_id);
    if note_window.tenant_id is null then
        update pushq.unique_windows as its
        set job_id = note_window.job_id, until = least(its.until, note_window.until)
        where its.tenant_id is null and its.unique_key = note_window.unique_key and its.job_id is null;
    else
        update pushq.unique_windows as its
        set job_id = note_window.job_id, until = least(its.until, note_window.until)
        where its.tenant_id = note_window.tenant_id and its.unique_key = note_window.unique_key and its.job_id is null;
    end if;
end
$$;

-- Deletes up to `most` windows that are closed, and returns their number. For sweepers.
create function pushq.forget_windows(most int default 10000) returns int
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    forgotten int;
begin
    with closed as materialized (
        select ctid
        from pushq.unique_windows
        where until <= now()
        order by until
        limit forget_windows.most
        for update skip locked
    )
    delete from pushq.unique_windows as its using closed where its.ctid = closed.ctid;
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;


-- Jobs that stand ------------------------------------------------------------------------------------------------

-- The unfinished job with the key, or null. is_replaced: while the job is queued, it takes the columns given; its attempts, failures and
-- crashes stay, and its progress, which was another payload's, goes. key_window: of the call that has opened the key's window, whose row then
-- names this job.
--
-- A null run_at makes the job due, and a job that is due keeps its place. The bell rings only if a pool may find the job sooner.
create function pushq.standing_job(
    task text, payload jsonb, queue text, priority smallint, run_at timestamptz, max_attempts int, timeout interval,
    unique_key text, tenant_id text, correlation_id text, is_replaced boolean, key_window interval, longest_delay interval)
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
begin
    perform pushq.refuse_other_tenant(standing_job.tenant_id);
    if standing_job.tenant_id is null then
        select job.id into its_id
        from pushq.jobs_unfinished as job
        where job.tenant_id is null and job.unique_key = standing_job.unique_key;
    else
        select job.id into its_id
        from pushq.jobs_unfinished as job
        where job.tenant_id = standing_job.tenant_id and job.unique_key = standing_job.unique_key;
    end if;
    if its_id is null then
        return null;
    end if;
    if standing_job.is_replaced then
        select job.status, job.task, job.queue, job.run_at, job.enqueued_at, job.attempt into was
        from pushq.jobs_unfinished as job
        where job.id = its_id and job.unique_key = standing_job.unique_key
        for update;
        if not found then
            return null;  -- ended meanwhile
        elsif was.status = 'queued' then
            due := least(
                coalesce(standing_job.run_at, least(was.run_at, clock_timestamp())), was.enqueued_at + standing_job.longest_delay);
            update pushq.jobs_unfinished as job
            set task = standing_job.task,
                payload = standing_job.payload,
                queue = standing_job.queue,
                priority = standing_job.priority,
                run_at = due,
                max_attempts = standing_job.max_attempts,
                timeout = standing_job.timeout,
                correlation_id = standing_job.correlation_id,
                progress = null
            where job.id = its_id;
            if not found then
                perform pushq.refuse_change(its_id);
            end if;
            if due < was.run_at or standing_job.queue <> was.queue or standing_job.task <> was.task then
                perform pushq.ring_if_idle(standing_job.queue);
            end if;
            if was.queue = any(pushq.queues_with_all_events()) then
                perform pushq.note_changes(
                    null, '{}', array[its_id], array[standing_job.tenant_id], array[was.attempt], '{queued}', '{edited}', null,
                    null, null, pushq.actor());
            end if;
        end if;
    end if;
    if standing_job.key_window is not null then
        perform pushq.note_window(
            standing_job.unique_key, standing_job.tenant_id, its_id, job.enqueued_at + standing_job.key_window)
        from pushq.jobs_unfinished as job
        where job.id = its_id;
        if not found then
            return null;
        end if;
    end if;
    return its_id;
end
$$;


-- Calls ----------------------------------------------------------------------------------------------------------

-- Raises invalid_parameter_value for what a call may not ask of keys.
create function pushq.check_enqueue(standing text, key_window interval, longest_delay interval) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    name text;
    span interval;
begin
    if check_enqueue.standing not in ('keep', 'replace') then
        raise invalid_parameter_value using message = format(
            'pushq.enqueue: standing is keep or replace, not %L', check_enqueue.standing);
    elsif check_enqueue.longest_delay is not null and check_enqueue.standing is distinct from 'replace' then
        raise invalid_parameter_value using message =
            'pushq.enqueue: longest_delay bounds how long calls put a job off; give standing => ''replace'', or no longest_delay';
    end if;
    for name, span in values ('key_window', check_enqueue.key_window), ('longest_delay', check_enqueue.longest_delay) loop
        -- PostgreSQL compares a year as 360 days.
        if span <= interval '0' or span > interval '366 days' then
            raise invalid_parameter_value using message = format(
                'pushq.enqueue: a %s is over 0 and at most a year, for example ''1 hour'', not %s', name, span);
        end if;
    end loop;
end
$$;

-- Inserts a job, or says which job stands in its way: an unfinished job with the key, or with a window the job that was enqueued last,
-- finished or not. Returns (the new job's id, true) or (the standing job's id, false). standing: what becomes of an unfinished job
-- with the key: keep, it stays as it is; replace, while it is queued it takes this call's task, payload, queue, priority, run_at,
-- max_attempts, timeout and correlation_id. key_window: no second job with the key within this time of the call that inserted the
-- first. longest_delay: with replace, the job is due at most this long after it was enqueued, however often it is put off. A null
-- takes the default.
create function pushq.enqueue(
    task text, payload jsonb default '{}', queue text default 'default', priority int default 0,
    run_at timestamptz default null, max_attempts int default null, timeout interval default null,
    unique_key text default null, tenant_id text default null, correlation_id text default null, waiters text[] default null,
    standing text default 'keep', key_window interval default null, longest_delay interval default null,
    out id uuid, out inserted boolean)
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
                enqueue.id := pushq.standing_job(
                    enqueue.task, its_payload, its_queue, its_priority, enqueue.run_at, enqueue.max_attempts, enqueue.timeout,
                    enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, true, null, enqueue.longest_delay);
            end if;
            enqueue.id := coalesce(enqueue.id, within_window);
            enqueue.inserted := false;
            return;
        end if;
    end if;
    for _ in 1..100 loop
        insert into pushq.jobs (
            task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters)
        values (
            enqueue.task, its_payload, its_queue, its_priority,
            least(coalesce(enqueue.run_at, now()), now() + enqueue.longest_delay), enqueue.max_attempts, enqueue.timeout,
            enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, enqueue.waiters)
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
        enqueue.id := pushq.standing_job(
            enqueue.task, its_payload, its_queue, its_priority, enqueue.run_at, enqueue.max_attempts, enqueue.timeout,
            enqueue.unique_key, enqueue.tenant_id, enqueue.correlation_id, is_replaced, enqueue.key_window, enqueue.longest_delay);
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

-- The same for many jobs, in one statement: all, or none if a job is refused. jobs: an array of objects, whose names are those of
-- pushq.enqueue() from task to waiters. Returns a row for each job in the order given; place: from 1. Of jobs with the same key, the
-- first is inserted, and meets the others. Keys are taken in the order of pushq's other batches, so that they never deadlock.
create function pushq.enqueue_many(
    jobs jsonb, standing text default 'keep', key_window interval default null, longest_delay interval default null)
returns table (place int, id uuid, inserted boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known text[] := '{task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters}';
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
                unique_key text, tenant_id text, correlation_id text, waiters text[])
        ) with ordinality as given (
            task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id, waiters,
            place)
        order by given.unique_key, given.tenant_id, given.place
    loop
        done := pushq.enqueue(
            job.task, job.payload, job.queue, job.priority, job.run_at, job.max_attempts, job.timeout, job.unique_key,
            job.tenant_id, job.correlation_id, job.waiters, enqueue_many.standing, enqueue_many.key_window,
            enqueue_many.longest_delay);
        ids[job.place] := done.id;
        were_inserted[job.place] := done.inserted;
    end loop;
    return query
    select given.place::int, given.id, given.inserted
    from unnest(ids, were_inserted) with ordinality as given (id, inserted, place);
end
$$;


-- Rights ---------------------------------------------------------------------------------------------------------

-- Whoever may insert jobs may give them keys, and whoever sweeps may forget windows.
revoke execute on function
    pushq.open_window(text, text, interval), pushq.note_window(text, text, uuid, timestamptz), pushq.forget_windows(int),
    pushq.standing_job(
        text, jsonb, text, smallint, timestamptz, int, interval, text, text, text, boolean, interval, interval)
    from public;
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
            'grant execute on function pushq.enqueue, pushq.enqueue_many(jsonb, text, interval, interval), '
            'pushq.check_enqueue(text, interval, interval), pushq.open_window(text, text, interval), '
            'pushq.note_window(text, text, uuid, timestamptz), pushq.standing_job to %s',
            its_role);
    end loop;
    for its_role in
        select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
        from pg_class, aclexplode(relacl)
        where oid = 'pushq.jobs_unfinished'::regclass and privilege_type = 'UPDATE' and grantee <> relowner
    loop
        execute format('grant execute on function pushq.forget_windows(int) to %s', its_role);
    end loop;
end
$$;

-- As in 0013_events, and keys.
create or replace function pushq.grant_to_tenants() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if has_schema_privilege('pushq', 'usage with grant option') then
        grant usage on schema pushq to pushq_tenant;
    end if;
    grant
        select (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by, status, attempt, failures, crashes, enqueued_at, started_at, finished_at, error, traceback, result,
            progress, finished_on),
        insert (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by, waiters)
        on pushq.jobs to pushq_tenant;
    -- Without actor and detail, which name operators and supervisors.
    grant select (id, job_id, tenant_id, kind, was, became, attempt, at, error, traceback, tx, day)
        on pushq.job_events to pushq_tenant;
    grant execute on function
        pushq.tenant(), pushq.tenant_of(name), pushq.uuidv7(), pushq.broken_rule, pushq.refuse_job(text),
        pushq.may_have_long_numbers(jsonb), pushq.is_too_long(jsonb), pushq.gate_clock(), pushq.ring_bell(text),
        pushq.schema_version(), pushq.cancel(uuid, text), pushq.retry(uuid, text), pushq.reprioritize(uuid, int),
        pushq.reschedule(uuid, timestamptz), pushq.are_channels(text[]), pushq.watch(uuid, text), pushq.unwatch(uuid, text),
        pushq.note(uuid, jsonb), pushq.enqueue, pushq.enqueue_many(jsonb, text, interval, interval),
        pushq.check_enqueue(text, interval, interval), pushq.open_window(text, text, interval),
        pushq.note_window(text, text, uuid, timestamptz), pushq.standing_job
        to pushq_tenant;
    grant select on pushq.migrations to pushq_tenant;
end
$$;
do $$
begin
    if pushq.is_separated() and to_regrole('pushq_tenant') is not null then
        perform pushq.grant_to_tenants();
    end if;
end
$$;

-- pushq.delete_tenant() deletes the tenant's windows too, before its jobs, in the order in which calls lock them.
do $$
declare
    place text := E'    -- In rounds, since';
begin
    execute replace(
        pg_get_functiondef('pushq.delete_tenant(text, int)'::regprocedure), place,
        E'    delete from pushq.unique_windows as its where its.tenant_id = delete_tenant.tenant;\n' || place);
end
$$;
