-- job_queue of the old app, as a view upon pushq.jobs. The app's statements run unchanged.
--
-- Run this after `pushq migrate`, as the owner of the database's tables. A table job_queue becomes job_queue_before_pushq; move.sql
-- moves the rows, and back.sql leads back. May be run again.

begin;
set local lock_timeout = '5s';
set local client_min_messages = warning;

-- The old table and its type -------------------------------------------------------------------------------------

-- The view stands where the old table stood, else in the first schema of the search_path that is not pushq's own.
do $$
declare
    its_schema text := coalesce(
        (select relnamespace::regnamespace::text from pg_class where oid = to_regclass('job_queue')),
        (select quote_ident(name) from unnest(current_schemas(false)) with ordinality as path (name, place)
            where name <> 'pushq' order by place limit 1),
        'public');
    referring text;
begin
    -- pushq has a table named tenants too, which a role named pushq would find first.
    perform set_config('search_path', concat_ws(', ', its_schema, (
        select string_agg(quote_ident(name), ', ' order by place)
        from unnest(current_schemas(false)) with ordinality as path (name, place)
        where name <> 'pushq')), true);
    if (select relkind from pg_class where oid = to_regclass('job_queue')) in ('r', 'p') then
        -- An id of a job outlives its row, and the rows move. So a foreign key cannot stay.
        select string_agg(format('alter table %s drop constraint %I;', conrelid::regclass, conname), ' ') into referring
        from pg_constraint
        where confrelid = 'job_queue'::regclass and contype = 'f' and conrelid <> confrelid and conparentid = 0;
        if referring is not null then
            raise object_not_in_prerequisite_state using
                message = 'tables refer to job_queue by foreign keys, which a view cannot have',
                hint = 'Run first: ' || referring;
        end if;
        alter table job_queue rename to job_queue_before_pushq;
    end if;
    if to_regclass('tenants') is null then
        create table tenants (id uuid primary key default gen_random_uuid(), name text not null);
        perform set_config('job_queue.made', 'tenants', true);
    end if;
    if to_regtype('job_status') is null then
        create type job_status as enum ('pending', 'processing', 'completed', 'failed');
    end if;
end
$$;


-- Roles ----------------------------------------------------------------------------------------------------------

-- authenticated: a tenant, by `set local pushq.tenant_id`. super_admin: reads and inserts for all tenants. service_role: old
-- workers, and whoever deletes.
do $$
declare
    its_role text;
    version int := current_setting('server_version_num');
begin
    perform pushq.separate_tenants();
    foreach its_role in array '{authenticated,super_admin,service_role}'::text[] loop
        begin
            if to_regrole(its_role) is null then
                execute format('create role %I nologin', its_role);
            end if;
        exception
            when duplicate_object or unique_violation then
                null;  -- made meanwhile, in another database of the server
            when insufficient_privilege then
                raise insufficient_privilege using message = format(
                    'an administrator must run `create role %I nologin` first, which %s may not', its_role, current_user);
        end;
    end loop;
    if not pg_has_role('authenticated', 'pushq_tenant', 'usage') then
        begin
            if version >= 160000 then
                execute 'grant pushq_tenant to authenticated with inherit true';
            else
                grant pushq_tenant to authenticated;
                if not pg_has_role('authenticated', 'pushq_tenant', 'usage') then
                    alter role authenticated inherit;
                end if;
            end if;
        exception
            when unique_violation or internal_error then
                null;  -- granted meanwhile, in another database of the server
            when insufficient_privilege then
                raise insufficient_privilege using message = format(
                    'an administrator must run `grant pushq_tenant to authenticated%s` first, which %s may not',
                    case when version >= 160000 then ' with inherit true' else '; alter role authenticated inherit' end,
                    current_user);
        end;
    end if;
    if has_schema_privilege('pushq', 'usage with grant option') then
        grant usage on schema pushq to authenticated, super_admin, service_role;
    end if;
end
$$;

-- What the view reads, as whoever asks. The columns of pushq_tenant lack supervisor.
grant select (supervisor) on pushq.jobs to authenticated;
grant
    select (
        id, tenant_id, task, status, payload, result, supervisor, attempt, run_at, enqueued_at, started_at, finished_at, queue),
    insert (id, task, payload, queue, run_at, tenant_id)
    on pushq.jobs to super_admin, service_role;
-- FOR UPDATE asks for the right to update any column.
grant update (priority) on pushq.jobs to service_role;
-- What an INSERT calls, for servers where PUBLIC may call nothing.
grant execute on function
    pushq.uuidv7(), pushq.broken_rule, pushq.refuse_job(text), pushq.may_have_long_numbers(jsonb), pushq.is_too_long(jsonb),
    pushq.gate_clock(), pushq.ring_bell(text), pushq.are_channels(text[])
    to super_admin, service_role;


-- Indexes --------------------------------------------------------------------------------------------------------

-- For the app's polls and lists. No other queue pays. New days get the indexes by themselves. The conditions `is not null` keep
-- PostgreSQL from reading a whole index in a statement that asks for something else.

-- What a claim looks for. PostgreSQL does not trust the comparison of enums below row-level security, and would sort all pending
-- jobs by another index.
create index if not exists job_queue_pending on pushq.jobs (enqueued_at)
where queue = 'job_queue'
and case status
    when 'queued' then 'pending'::job_status
    when 'running' then 'processing'::job_status
    when 'succeeded' then 'completed'::job_status
    else 'failed'::job_status
end = 'pending';
create index if not exists job_queue_by_status on pushq.jobs (
    (case status
        when 'queued' then 'pending'::job_status
        when 'running' then 'processing'::job_status
        when 'succeeded' then 'completed'::job_status
        else 'failed'::job_status
    end),
    enqueued_at)
where queue = 'job_queue'
and case status
    when 'queued' then 'pending'::job_status
    when 'running' then 'processing'::job_status
    when 'succeeded' then 'completed'::job_status
    else 'failed'::job_status
end is not null;
create index if not exists job_queue_by_tenant on pushq.jobs (
    (case when tenant_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then tenant_id::uuid end), enqueued_at)
where queue = 'job_queue'
and case when tenant_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then tenant_id::uuid end is not null;
create index if not exists job_queue_by_type on pushq.jobs (task, enqueued_at)
where queue = 'job_queue' and task is not null;


-- The view -------------------------------------------------------------------------------------------------------

do $$
declare
    is_new boolean := to_regclass('job_queue') is null;
    its_table text;
    grantee text;
begin
    -- A row of the queue whose tenant is no uuid is no job of this app, and must not stop whoever reads the others.
    create or replace view job_queue with (security_invoker = true) as
    select
        id,
        case when tenant_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then tenant_id::uuid end as tenant_id,
        task as type,
        case status
            when 'queued' then 'pending'::job_status
            when 'running' then 'processing'::job_status
            when 'succeeded' then 'completed'::job_status
            else 'failed'::job_status
        end as status,
        payload,
        result,
        case when starts_with(supervisor, 'guest:') then substr(supervisor, 7) else supervisor end as worker_id,
        attempt as attempts,
        nullif(run_at, enqueued_at) as next_retry_at,
        enqueued_at as created_at,
        -- A row that came from the old table without an instant has not started.
        case when started_at is not null or status = 'cancelled' then finished_at end as completed_at
    from pushq.jobs
    where queue = 'job_queue'
    and case when tenant_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then true else false end;

    alter view job_queue
        alter column id set default pushq.uuidv7(),
        alter column status set default 'pending',
        alter column payload set default '{}',
        alter column attempts set default 0,
        alter column created_at set default now();

    -- Some hosts grant everything new to the roles of their API.
    for its_table, grantee in
        select made.name, case acl.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(acl.grantee)) end
        from (values ('job_queue', is_new), ('tenants', current_setting('job_queue.made', true) = 'tenants')) as made (name, is_new)
        join pg_class on pg_class.oid = to_regclass(made.name), aclexplode(relacl) as acl
        where made.is_new and acl.grantee <> relowner
    loop
        execute format('revoke all on %I from %s', its_table, grantee);
    end loop;
end
$$;

grant select, insert on job_queue to authenticated;
grant select, insert on job_queue, tenants to super_admin;
grant select, insert, update, delete on job_queue, tenants to service_role;


-- INSERT ---------------------------------------------------------------------------------------------------------

-- As whoever inserts: row-level security refuses jobs of other tenants.
create or replace function job_queue_insert() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text := case
        when new.id is null then 'id'
        when new.type is null then 'type'
        when new.status is null then 'status'
        when new.payload is null then 'payload'
        when new.attempts is null then 'attempts'
        when new.created_at is null then 'created_at'
    end;
begin
    if missing is null then
        if new.status <> 'pending' then
            raise feature_not_supported using
                message = format('a job begins as pending, and not as %s', new.status),
                hint = 'move.sql moves rows of an old table, whatever their status.';
        end if;
        insert into pushq.jobs (id, task, payload, queue, run_at, tenant_id)
        values (new.id, new.type, new.payload, 'job_queue', coalesce(new.next_retry_at, now()), new.tenant_id::text)
        returning enqueued_at, nullif(run_at, enqueued_at) into new.created_at, new.next_retry_at;
        if new.tenant_id is null then
            missing := 'tenant_id';
        end if;
    end if;
    if missing is not null then
        raise not_null_violation using
            message = format('null value in column "%s" of relation "job_queue" violates not-null constraint', missing),
            schema = tg_table_schema, table = 'job_queue', column = missing;
    end if;
    new.result := null;
    new.worker_id := null;
    new.attempts := 0;
    new.completed_at := null;
    return new;
end
$$;

-- With the owner's rights: a tenant sees neither other tenants nor other tenants' ids.
create or replace function job_queue_insert_check() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    is_there boolean;
begin
    -- The lock of a foreign key: whoever deletes the tenant waits for this transaction, and then finds the job.
    execute format('select true from %s where id = $1 for key share', tg_argv[0]) into is_there using new.tenant_id;
    if is_there is null then
        raise foreign_key_violation using
            message = 'insert or update on table "job_queue" violates foreign key constraint "job_queue_tenant_id_fkey"',
            detail = format('Key (tenant_id)=(%s) is not present in table "tenants".', new.tenant_id),
            schema = tg_table_schema, table = 'job_queue', constraint = 'job_queue_tenant_id_fkey';
    end if;
    -- pushq keeps ids unique among unfinished jobs. The INSERT has waited for a job with the id that was about to finish.
    if exists (
        select from pushq.jobs as job where job.id = new.id and job.finished_on < 'infinity' and job.queue = 'job_queue') then
        raise unique_violation using
            message = 'duplicate key value violates unique constraint "job_queue_pkey"',
            detail = format('Key (id)=(%s) already exists.', new.id),
            schema = tg_table_schema, table = 'job_queue', constraint = 'job_queue_pkey';
    end if;
    return new;
end
$$;


-- UPDATE ---------------------------------------------------------------------------------------------------------

-- An old worker is a guest of pushq under its worker_id. What it writes counts for a job that the worker holds. Everything else
-- changes no row, as if the WHERE had not fitted: jobs of pools, of other workers, queued and finished ones.
create or replace function job_queue_update() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- An old worker has no heartbeat. After a lease without a claim, a sweeper warns the guest; after another, its jobs go on.
    lease interval := coalesce(nullif(current_setting('job_queue.lease', true), '')::interval, '1 hour');
    held uuid;
    kind text;
begin
    if (new.id, new.tenant_id, new.type, new.payload, new.created_at)
        is distinct from (old.id, old.tenant_id, old.type, old.payload, old.created_at) then
        raise feature_not_supported using
            message = 'id, tenant_id, type, payload and created_at of a job stay as they are',
            hint = 'Delete the job, and insert another.';
    end if;

    if old.status = 'pending' and new.status = 'processing' then
        held := pushq.take(old.id, coalesce(left(nullif(new.worker_id, ''), 190), 'unnamed'), lease);
        if held is null then
            return null;
        end if;
    elsif old.status = 'processing' then
        select job.token into held
        from pushq.jobs_unfinished as job
        join pushq.supervisors as host on host.name = job.supervisor
        where job.id = old.id and job.supervisor = 'guest:' || old.worker_id and host.pid <= 0
        and job.supervisor <> 'guest:' || job.id;  -- a handler has detached this one
        if held is null then
            return null;
        elsif new.status = 'processing' then
            -- The worker is alive; another worker does not get the job.
            if new.worker_id is distinct from old.worker_id or not pushq.extend(old.id, held, lease) then
                return null;
            end if;
            update pushq.jobs_unfinished as job set result = new.result where job.id = old.id and job.token = held;
        else
            kind := case new.status
                when 'completed' then 'succeeded'
                when 'failed' then 'failed'
                else case when new.attempts > old.attempts then 'retried' else 'released' end
            end;
            if not pushq.finish(
                old.id, held, kind, new.result, case when kind = 'failed' then format('worker %s says so', old.worker_id) end) then
                return null;
            end if;
            update pushq.jobs_unfinished as job
            set result = new.result,
                run_at = case
                    when new.next_retry_at is distinct from old.next_retry_at then coalesce(new.next_retry_at, job.run_at)
                    else job.run_at end
            where job.id = old.id and new.status = 'pending';
        end if;
    else
        return null;
    end if;

    select
        job.result, substr(job.supervisor, 7), job.attempt, nullif(job.run_at, job.enqueued_at), job.finished_at
    into new.result, new.worker_id, new.attempts, new.next_retry_at, new.completed_at
    from pushq.jobs as job
    where job.id = old.id and job.queue = 'job_queue';
    return new;
end
$$;


-- DELETE ---------------------------------------------------------------------------------------------------------

-- Running jobs too: the pool stops the handler, and the outcome is refused.
create or replace function job_queue_delete() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    gone record;
begin
    for _ in 1..100 loop
        -- A guest before its jobs, as everywhere, so that no deadlock arises.
        perform from pushq.jobs_unfinished as job join pushq.supervisors as host on host.name = job.supervisor
        where job.id = old.id and host.pid <= 0
        for update of host;
        delete from pushq.jobs as job where job.id = old.id and job.queue = 'job_queue'
        returning job.status, job.token, job.supervisor into gone;
        if found then
            if gone.status = 'running' then
                perform pushq.recall(old.id, gone.token), pushq.dismiss_guest(gone.supervisor);
            end if;
            return old;
        end if;
        exit when not exists (select from pushq.jobs as job where job.id = old.id and job.queue = 'job_queue');
        -- The job has finished between the two statements: its row stands in another place.
    end loop;
    return null;
end
$$;

create or replace trigger job_queue_insert instead of insert on job_queue
for each row execute function job_queue_insert();
do $$
begin
    -- Fires after job_queue_insert, by its name.
    execute format(
        'create or replace trigger job_queue_insert_check instead of insert on job_queue '
        'for each row execute function job_queue_insert_check(%L)', (
            select format('%I.%I', nspname, relname)
            from pg_class join pg_namespace on pg_namespace.oid = relnamespace
            where pg_class.oid = to_regclass('tenants')));
end
$$;
create or replace trigger job_queue_update instead of update on job_queue
for each row execute function job_queue_update();
create or replace trigger job_queue_delete instead of delete on job_queue
for each row execute function job_queue_delete();


-- Tenants --------------------------------------------------------------------------------------------------------

-- ON DELETE CASCADE, running jobs included. Whoever inserts for the tenant holds the tenant's row, and has committed by now.
create or replace function job_queue_delete_tenant() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        raise feature_not_supported using message = 'delete tenants in read committed: a snapshot misses jobs that come meanwhile';
    end if;
    loop
        exit when pushq.delete_tenant(old.id::text) = 0;
    end loop;
    return null;
end
$$;

-- What the foreign key refused besides: another id for a tenant with jobs, and TRUNCATE.
create or replace function job_queue_keep_tenant() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'TRUNCATE' then
        if exists (select from pushq.jobs as job where job.queue = 'job_queue') then
            raise feature_not_supported using message = 'cannot truncate tenants: there are jobs', hint = 'Delete the tenants.';
        end if;
    elsif exists (select from pushq.jobs as job where job.tenant_id = old.id::text) then
        raise foreign_key_violation using message = format('tenant %s has jobs, and keeps its id', old.id);
    end if;
    return new;
end
$$;

create or replace trigger job_queue_delete_tenant after delete on tenants
for each row execute function job_queue_delete_tenant();
create or replace trigger job_queue_keep_tenant before update of id on tenants
for each row when (old.id <> new.id) execute function job_queue_keep_tenant();
create or replace trigger job_queue_keep_tenants before truncate on tenants
for each statement execute function job_queue_keep_tenant();

-- Nobody hangs these functions on a table of his own.
do $$
declare
    its_function regprocedure;
    grantee text;
begin
    for its_function, grantee in
        select proc.oid, case acl.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(acl.grantee)) end
        from pg_proc as proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) as acl
        where pronamespace = current_schema()::regnamespace and acl.grantee <> proowner
        and proname in (
            'job_queue_insert', 'job_queue_insert_check', 'job_queue_update', 'job_queue_delete', 'job_queue_delete_tenant',
            'job_queue_keep_tenant')
    loop
        execute format('revoke execute on function %s from %s', its_function, grantee);
    end loop;
end
$$;

commit;
