-- Further faults of the schema. hidden: a table with row-level security and no policy, which only the owner can read. owner: a
-- part of another owner than the table of jobs, whose owner makes and empties days. day: a day without the index of ids, by
-- which jobs are found. row: a lost row. tenants: what pushq.separate_tenants() makes, and is no more. tenant: a role of a tenant
-- that the policies do not bound.
select 'hidden' as kind, relname::text as name
from pg_class as class
where relnamespace = 'pushq'::regnamespace and relkind in ('r', 'p') and relrowsecurity
and relname !~ '^jobs_[0-9]{4}_[0-9]{2}_[0-9]{2}'
and not exists (select from pg_policy where polrelid = class.oid)
union all
select 'owner', relname || ' to ' || pg_get_userbyid(relowner)
from pg_class
where relnamespace = 'pushq'::regnamespace and relkind in ('r', 'p', 'S')
and relowner <> (select relowner from pg_class where oid = 'pushq.jobs'::regclass)
union all
select 'owner', proname || '() to ' || pg_get_userbyid(proowner)
from pg_proc
where pronamespace = 'pushq'::regnamespace and prosecdef
and proowner <> (select relowner from pg_class where oid = 'pushq.jobs'::regclass)
union all
select 'day', its_table::text
from pushq.attached_days() as day
cross join to_regclass(to_char(day, '"pushq.jobs_"YYYY_MM_DD')) as its_table
where not exists (
    select
    from pg_index
    join pg_attribute on attrelid = indrelid and attnum = indkey[0]
    where indrelid = its_table and attname = 'id' and indisvalid and indpred is null)
union all
select 'row', 'days ' || day
from pushq.attached_days() as day
where day not in (select day from pushq.days)
union all
select 'row', 'migrations ' || version
from generate_series(1, pushq.schema_version()) as version
where version not in (select version from pushq.migrations)
union all
select 'tenants', part.name
from (
    values
        ('row-level security of jobs', (select relrowsecurity from pg_class where oid = 'pushq.jobs'::regclass)),
        ('policy tenants', exists (
            select from pg_policy
            where polrelid = 'pushq.jobs'::regclass and polname = 'tenants' and not polpermissive
            and polroles = array[to_regrole('pushq_tenant')]::oid[])),
        ('rights of pushq_tenant', case
            when to_regrole('pushq_tenant') is null then false
            else has_column_privilege(to_regrole('pushq_tenant'), 'pushq.jobs', 'tenant_id', 'select') end),
        ('index jobs_of_tenant', to_regclass('pushq.jobs_of_tenant') is not null)
) as part (name, is_there)
where pushq.is_separated() and not part.is_there
union all
select 'tenant', tenant.role::text
from pushq.tenant_roles as tenant
left join pg_roles on rolname = tenant.role
where rolname is null or to_regrole('pushq_tenant') is null
or not pg_has_role(pg_roles.oid, to_regrole('pushq_tenant'), 'usage')
order by kind, name
