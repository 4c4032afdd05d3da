-- Tenants, kept apart by row-level security.
--
-- Nothing here costs a database without tenants: row-level security sleeps until somebody calls pushq.separate_tenants(). Rights
-- of roles come from grants. One restrictive policy bounds the members of pushq_tenant, whatever other grants they have.
--
-- A tenant is a role, or a setting of the transaction. A role in pushq.tenant_roles is a boundary: the role's own setting is
-- ignored. The setting pushq.tenant_id is a guard against forgetting, and no boundary: whoever can send SQL can set it.

insert into pushq.migrations (version, name) values (7, '0007_tenants');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 7;

-- The roles that are tenants, by name. Several roles may be one tenant.
create table pushq.tenant_roles (
    role name primary key,
    tenant_id text not null,
    constraint tenant_roles_role_has_a_name check (role <> ''),
    constraint tenant_roles_tenant_id_has_1_to_200_characters check (length(tenant_id) between 1 and 200)
);

-- The tenants of the mapped roles whose rights the role has or may take by SET ROLE. Null: there are none.
create function pushq.tenants_within_reach(role name) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    its_id oid := quote_ident(tenants_within_reach.role)::regrole;
    may_set text := case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end;
begin
    if not exists (
        select from pg_auth_members where member = its_id and roleid is distinct from to_regrole('pushq_tenant')) then
        return null;  -- without the search below, which takes longer than an INSERT
    end if;
    return (
        with recursive reached as (
            select its_id as id
            union
            select roleid from reached join pg_auth_members on member = reached.id
        )
        select array_agg(distinct tenant.tenant_id)
        from reached
        join pushq.tenant_roles as tenant on tenant.role = pg_get_userbyid(reached.id)
        where pg_has_role(its_id, reached.id, 'usage') or pg_has_role(its_id, reached.id, may_set));
end
$$;

-- The tenant of a role in this session, or null, which is no tenant. In this order: the role's own tenant; a tenant within the
-- role's reach; a tenant within the reach of the session's user, who may have set a role to leave its own; the setting. Who
-- reaches several tenants names one of these by the setting.
--
-- Answers for roles of the session alone, so that nobody learns of others.
create function pushq.tenant_of(role name) returns text
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A setting that was local to an earlier transaction is an empty string.
    named text := nullif(current_setting('pushq.tenant_id', true), '');
    its_own text;
    within_reach text[];
begin
    if not pg_has_role(session_user, tenant_of.role, 'member') then
        return null;
    end if;
    select tenant.tenant_id into its_own from pushq.tenant_roles as tenant where tenant.role = tenant_of.role;
    if found then
        return its_own;
    elsif not exists (select from pushq.tenant_roles) then
        return named;
    end if;
    within_reach := pushq.tenants_within_reach(tenant_of.role);
    if within_reach is null and session_user <> tenant_of.role then
        select array[tenant.tenant_id] into within_reach from pushq.tenant_roles as tenant where tenant.role = session_user;
        within_reach := coalesce(within_reach, pushq.tenants_within_reach(session_user));
    end if;
    return case
        when within_reach is null or named = any(within_reach) then named
        when cardinality(within_reach) = 1 then within_reach[1]
    end;
end
$$;

-- The tenant whose jobs the current role sees. Not the caller's: a tenant's function, trigger or materialized view, run by
-- somebody else, has the tenant's rights, and sees the tenant's jobs.
create function pushq.tenant() returns text
language sql stable
return pushq.tenant_of(current_user);

-- Who sent the statement. Inside a function with its owner's rights, current_user is the owner, and SET ROLE is refused: the
-- setting still names the caller.
create function pushq.caller() returns name
language sql stable
return case current_setting('role') when 'none' then session_user else current_setting('role')::name end;

-- Whether the caller may touch a job of the tenant: for functions with the owner's rights, to which no policy applies. True for
-- callers that policies do not bound either: no members of pushq_tenant, or the owner of the tables, or with bypassrls.
create function pushq.may_touch(tenant text) returns boolean
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return not exists (
            select from pg_roles where rolname = 'pushq_tenant' and pg_has_role(pushq.caller(), oid, 'usage'))
        or pg_has_role(pushq.caller(), (select relowner from pg_class where oid = 'pushq.jobs'::regclass), 'usage')
        or (select rolbypassrls from pg_roles where rolname = pushq.caller())
        or coalesce(may_touch.tenant = pushq.tenant_of(pushq.caller()), false);
end
$$;

-- What is missing for tenants to be kept apart, or is not as pushq.separate_tenants() makes it, in words.
create function pushq.missing_for_tenants() returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select part.name
    from (
        values
            ('row-level security of jobs', (select relrowsecurity from pg_class where oid = 'pushq.jobs'::regclass)),
            ('policy by_grants', exists (
                select from pg_policy
                where polrelid = 'pushq.jobs'::regclass and polname = 'by_grants' and polpermissive and polcmd = '*'
                and polroles = '{0}' and pg_get_expr(polqual, polrelid) = 'true'
                and pg_get_expr(polwithcheck, polrelid) = 'true')),
            ('policy tenants', exists (
                select from pg_policy
                where polrelid = 'pushq.jobs'::regclass and polname = 'tenants' and not polpermissive and polcmd = '*'
                and polroles = array[to_regrole('pushq_tenant')]::oid[]
                and replace(pg_get_expr(polqual, polrelid), ' AS tenant', '') = '(tenant_id = ( SELECT pushq.tenant()))'
                and replace(pg_get_expr(polwithcheck, polrelid), ' AS tenant', '') = '(tenant_id = ( SELECT pushq.tenant()))')),
            ('rights of pushq_tenant', case
                when to_regrole('pushq_tenant') is null then false
                else has_column_privilege(to_regrole('pushq_tenant'), 'pushq.jobs', 'tenant_id', 'select') end),
            ('index jobs_of_tenant', exists (
                select from pg_index where indexrelid = to_regclass('pushq.jobs_of_tenant') and indisvalid))
    ) as part (name, is_there)
    where not coalesce(part.is_there, false);
end;

-- Whether pushq.separate_tenants() has been called, perhaps before a restore that lost some parts.
create function pushq.is_separated() returns boolean
language sql stable
return exists (
        select from pg_catalog.pg_policy
        where polrelid = pg_catalog.to_regclass('pushq.jobs') and polname in ('by_grants', 'tenants'))
    or 'rights of pushq_tenant' not in (select pushq.missing_for_tenants());

-- What tenants may do. The functions act with the owner's rights and ask pushq.may_touch().
create function pushq.grant_to_tenants() returns void
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
            finished_on),
        insert (
            id, task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, correlation_id,
            submitted_by)
        on pushq.jobs to pushq_tenant;
    grant execute on function
        pushq.tenant(), pushq.tenant_of(name), pushq.uuidv7(), pushq.broken_rule, pushq.refuse_job(text),
        pushq.may_have_long_numbers(jsonb), pushq.is_too_long(jsonb), pushq.gate_clock(), pushq.ring_bell(text),
        pushq.schema_version()
        to pushq_tenant;
    grant select on pushq.migrations to pushq_tenant;
end
$$;

-- Keeps tenants apart from now on: makes the role pushq_tenant, if the owner may make roles, its policies and grants, and an
-- index by tenant. May be called again, and then makes what is missing. Returns 'separated' or 'already separated'.
--
-- Under row-level security PostgreSQL refuses COPY to everybody but the owner, even if the policies hide nothing. So the
-- migrations leave row-level security off.
create function pushq.separate_tenants() returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
declare
    was_separated boolean;
    missing text[];
    others text;
begin
    lock table pushq.tenant_roles in share row exclusive mode;  -- one at a time
    was_separated := pushq.is_separated();
    if to_regrole('pushq_tenant') is null then
        begin
            create role pushq_tenant nologin;
        exception
            when duplicate_object or unique_violation then
                null;  -- made meanwhile, in another database
            when insufficient_privilege then
                raise insufficient_privilege using message = format(
                    'pushq.separate_tenants: an administrator must run `create role pushq_tenant nologin` first, which %s may not',
                    current_user);
        end;
    end if;
    missing := array(select pushq.missing_for_tenants());

    select string_agg(quote_ident(polname), ', ' order by polname) into others
    from pg_policy
    where polrelid = 'pushq.jobs'::regclass and polpermissive and polname <> 'by_grants';
    if 'policy by_grants' = any(missing) and others is not null then
        raise object_not_in_prerequisite_state using
            message = format('pushq.separate_tenants: pushq.jobs has policies of your own: %s', others),
            detail = 'Beside a policy by which rights come from grants, they would hide nothing any more.',
            hint = 'Drop them, or make them restrictive, and call the function again.';
    end if;

    -- Only what is missing is made, since each step waits for open transactions, and others wait for the step.
    if 'index jobs_of_tenant' = any(missing) then
        drop index if exists pushq.jobs_of_tenant;
        create index jobs_of_tenant on pushq.jobs (tenant_id, enqueued_at) where tenant_id is not null;
        if 'index jobs_of_tenant' in (select pushq.missing_for_tenants()) then
            -- The index has taken over a part whose building had failed. Both go.
            drop index pushq.jobs_of_tenant;
            create index jobs_of_tenant on pushq.jobs (tenant_id, enqueued_at) where tenant_id is not null;
        end if;
    end if;
    if 'policy by_grants' = any(missing) then
        drop policy if exists by_grants on pushq.jobs;
        create policy by_grants on pushq.jobs using (true) with check (true);
    end if;
    if 'policy tenants' = any(missing) then
        drop policy if exists tenants on pushq.jobs;
        create policy tenants on pushq.jobs as restrictive to pushq_tenant
            using (tenant_id = (select pushq.tenant())) with check (tenant_id = (select pushq.tenant()));
    end if;
    if 'row-level security of jobs' = any(missing) then
        alter table pushq.jobs enable row level security;
    end if;
    perform pushq.grant_to_tenants();
    return case when was_separated then 'already separated' else 'separated' end;
end
$$;

-- The way back: takes all rights from pushq_tenant in this database, then the policies and the index. Returns 'united' or 'not
-- separated'. The rows of pushq.tenant_roles stay.
create function pushq.unite_tenants() returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
begin
    if not pushq.is_separated() then
        return 'not separated';
    end if;
    if to_regrole('pushq_tenant') is not null then
        revoke all on all tables in schema pushq from pushq_tenant;
        revoke all on all functions in schema pushq from pushq_tenant;
    end if;
    drop policy if exists tenants on pushq.jobs;
    drop policy if exists by_grants on pushq.jobs;
    if not exists (select from pg_policy where polrelid = 'pushq.jobs'::regclass) then
        alter table pushq.jobs disable row level security;
    end if;
    drop index if exists pushq.jobs_of_tenant;
    return 'united';
end
$$;

-- Tells the pool that runs a job under the token that the job is no longer the pool's: the pool stops the handler. The channel is
-- everybody's, so the message is a digest, which only the job's own pool knows. Not told if the transaction has set pushq.notify =
-- 'off', or the cluster's notification queue is half full.
create function pushq.recall(id uuid, token uuid) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if recall.token is not null and coalesce(current_setting('pushq.notify', true) <> 'off', true)
        and pg_notification_queue_usage() < 0.5 then
        perform pg_notify('pushq_cancel', encode(sha256(convert_to(recall.id::text || recall.token::text, 'UTF8')), 'hex'));
    end if;
end
$$;

-- Deletes up to `most` jobs of a tenant, unfinished jobs first, running ones included, and returns the number of deleted jobs.
-- Repeat until 0. The outcome of a deleted job is refused. Each step is quick where tenants are kept apart, by the index.
create function pushq.delete_tenant(tenant text, most int default 5000) returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    deleted bigint := 0;
    is_done boolean := false;
    more bigint;
    the_day date;
begin
    if coalesce(delete_tenant.tenant, '') = '' or coalesce(delete_tenant.most, 0) < 1 then
        raise invalid_parameter_value using message = format(
            'pushq.delete_tenant(%L, %s): name the tenant, and at least one job a step',
            delete_tenant.tenant, coalesce(delete_tenant.most::text, 'null'));
    end if;
    -- In rounds, since a job that was locked may have moved, by an end or a retry, to a place already passed.
    for _ in 1..100 loop
        -- In the order of ids, as outcomes are written, so that no deadlock arises.
        with going as materialized (
            select id
            from pushq.jobs_unfinished as job
            where job.tenant_id = delete_tenant.tenant
            order by id
            limit delete_tenant.most - deleted
            for update
        ),
        gone as (
            delete from pushq.jobs_unfinished as job using going where job.id = going.id
            returning job.id, job.token
        )
        select count(*) into more from gone cross join lateral pushq.recall(gone.id, gone.token);
        deleted := deleted + more;
        for the_day in select day from pushq.attached_days() as day order by day loop
            exit when deleted >= delete_tenant.most;
            execute format(
                'with gone as (delete from pushq.%1$I as job where ctid = any(array('
                'select ctid from pushq.%1$I as job where job.tenant_id = $1 limit $2 for update)) returning 1) '
                'select count(*) from gone',
                to_char(the_day, '"jobs_"YYYY_MM_DD'))
            into more
            using delete_tenant.tenant, delete_tenant.most - deleted;
            deleted := deleted + more;
        end loop;
        is_done := deleted >= delete_tenant.most
            or not exists (select from pushq.jobs as job where job.tenant_id = delete_tenant.tenant);
        exit when is_done;
    end loop;
    if not is_done and deleted = 0 then
        raise insufficient_privilege using message = format(
            'jobs of tenant %L can be seen and not deleted: a trigger or a row-level policy says so', delete_tenant.tenant);
    end if;
    return deleted;
end
$$;

revoke execute on function
    pushq.tenant_of(name), pushq.may_touch(text), pushq.grant_to_tenants(), pushq.separate_tenants(), pushq.unite_tenants(),
    pushq.delete_tenant(text, int)
    from public;
