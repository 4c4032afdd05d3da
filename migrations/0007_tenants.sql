-- Tenants, kept apart by row-level security.
--
-- Nothing here costs a database without tenants: row-level security sleeps until somebody calls pushq.separate_tenants(). Rights
-- of roles come from grants. One restrictive policy bounds the members of pushq_tenant, whatever other roles they have.
--
-- A tenant is a role, or a setting of the transaction. A role in pushq.tenant_roles is a boundary: the role's own setting is
-- ignored. The setting pushq.tenant_id is a guard against forgetting, and no boundary: whoever can send SQL can set it.

insert into pushq.migrations (version, name) values (7, '0007_tenants');
create or replace function pushq.schema_version() returns int language sql stable parallel safe return 7;

-- The roles that are tenants. A member of such a role, by inheritance, is the same tenant. Several roles may be one tenant.
create table pushq.tenant_roles (
    role name primary key,
    tenant_id text not null,
    constraint tenant_roles_tenant_id_has_1_to_200_characters check (length(tenant_id) between 1 and 200)
);

-- Who sent the statement. Inside a function with its owner's rights, current_user is the owner, and SET ROLE is refused: the
-- setting still names the caller.
create function pushq.caller() returns name
language sql stable
return case current_setting('role') when 'none' then session_user else current_setting('role')::name end;

-- The caller's tenant, or null, which is no tenant: as pushq.tenant_roles says of the caller, else of the roles that the caller
-- inherits, else as the setting says. Who inherits several tenants names one of these by the setting.
create function pushq.tenant() returns text
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    caller oid := quote_ident(pushq.caller())::regrole;
    -- A setting that was local to an earlier transaction is an empty string.
    named text := nullif(current_setting('pushq.tenant_id', true), '');
    mapped text;
    inherited text[];
begin
    select tenant_id into mapped from pushq.tenant_roles where role = pushq.caller();
    if found then
        return mapped;
    elsif not exists (select from pushq.tenant_roles)
        or not exists (
            select from pg_auth_members where member = caller and roleid is distinct from to_regrole('pushq_tenant')) then
        return named;  -- without the search below, which takes longer than an INSERT
    end if;
    with recursive role as (
        select caller as id
        union
        select roleid from role join pg_auth_members on member = role.id
    )
    select array_agg(distinct tenant.tenant_id)
    into inherited
    from role
    join pushq.tenant_roles as tenant on tenant.role = pg_get_userbyid(role.id)
    where pg_has_role(caller, role.id, 'usage');
    return case
        when inherited is null or named = any(inherited) then named
        when cardinality(inherited) = 1 then inherited[1]
    end;
end
$$;

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
        or coalesce(may_touch.tenant = pushq.tenant(), false);
end
$$;

-- Whether tenants are kept apart: pushq.separate_tenants() has been called, perhaps before a restore that lost some parts.
create function pushq.is_separated() returns boolean
language sql stable parallel safe
return exists (
    select from pg_catalog.pg_policy
    where polrelid = pg_catalog.to_regclass('pushq.jobs') and polname = 'by_grants');

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
        pushq.tenant(), pushq.caller(), pushq.uuidv7(), pushq.broken_rule, pushq.refuse_job(text),
        pushq.may_have_long_numbers(jsonb), pushq.is_too_long(jsonb), pushq.gate_clock(), pushq.ring_bell(text),
        pushq.schema_version()
        to pushq_tenant;
    grant select on pushq.migrations to pushq_tenant;
end
$$;

-- Keeps tenants apart from now on: makes the role pushq_tenant, if the owner may make roles, its policies and grants, and an
-- index by tenant. May be called again, for example after a restore without roles. Returns 'separated' or 'already separated'.
--
-- Under row-level security PostgreSQL refuses COPY to everybody but the owner, even if the policies hide nothing. So the
-- migrations leave row-level security off.
create function pushq.separate_tenants() returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was_separated boolean := pushq.is_separated();
    its_table text;
begin
    if to_regrole('pushq_tenant') is null then
        begin
            create role pushq_tenant nologin;
        exception
            when duplicate_object or unique_violation then
                null;  -- another session has made the role
            when insufficient_privilege then
                raise insufficient_privilege using
                    message = format(
                        'pushq.separate_tenants: an administrator must run `create role pushq_tenant nologin` first, which %s may not',
                        current_user);
        end;
    end if;
    -- Nothing is done twice, since each step waits for open transactions, and others wait for the step.
    if to_regclass('pushq.jobs_of_tenant') is null then
        create index jobs_of_tenant on pushq.jobs (tenant_id, enqueued_at) where tenant_id is not null;
    end if;
    foreach its_table in array array['jobs'] loop
        if not (select relrowsecurity from pg_class where oid = format('pushq.%I', its_table)::regclass) then
            execute format('alter table pushq.%I enable row level security', its_table);
        end if;
        if not exists (
            select from pg_policies where schemaname = 'pushq' and tablename = its_table and policyname = 'by_grants') then
            execute format('create policy by_grants on pushq.%I using (true) with check (true)', its_table);
        end if;
        if not exists (
            select from pg_policies where schemaname = 'pushq' and tablename = its_table and policyname = 'tenants') then
            execute format(
                'create policy tenants on pushq.%I as restrictive to pushq_tenant '
                'using (tenant_id = (select pushq.tenant())) with check (tenant_id = (select pushq.tenant()))',
                its_table);
        end if;
    end loop;
    perform pushq.grant_to_tenants();
    return case when was_separated then 'already separated' else 'separated' end;
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
    deleted bigint;
    more bigint;
    the_day date;
begin
    if coalesce(delete_tenant.tenant, '') = '' or coalesce(delete_tenant.most, 0) < 1 then
        raise invalid_parameter_value using message = format(
            'pushq.delete_tenant(%L, %s): name the tenant, and at least one job a step',
            delete_tenant.tenant, coalesce(delete_tenant.most::text, 'null'));
    end if;
    -- In the order of ids, as outcomes are written, so that no deadlock arises.
    with going as materialized (
        select id
        from pushq.jobs_unfinished as job
        where job.tenant_id = delete_tenant.tenant
        order by id
        limit delete_tenant.most
        for update
    ),
    gone as (
        delete from pushq.jobs_unfinished as job using going where job.id = going.id
        returning job.id
    )
    select count(*) into deleted from gone;
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
    return deleted;
end
$$;

revoke execute on function
    pushq.tenant(), pushq.may_touch(text), pushq.grant_to_tenants(), pushq.separate_tenants(), pushq.delete_tenant(text, int)
    from public;
