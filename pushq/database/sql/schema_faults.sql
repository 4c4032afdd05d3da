-- Further faults of the schema. hidden: a table with row-level security and no policy, which only the owner can read. owner: a
-- part of another owner than the table of jobs, whose owner makes and empties days. day: a day without the index of ids, by
-- which jobs are found. events: a day that cannot take events. artifacts: a day that cannot take
-- artifacts. row: a lost row. tenants: what pushq.separate_tenants() makes, and is no more. tenant: a role of a tenant
-- that the policies do not bound. loose: a tenant with rights on the partition, where no policy is.
select 'hidden' as kind, relname::text as name
from pg_class as class
where relnamespace = 'pushq'::regnamespace and relkind in ('r', 'p') and relrowsecurity
and relname !~ '^(jobs|job_events|artifact_pieces)_[0-9]{4}_[0-9]{2}_[0-9]{2}'
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
select 'events', to_char(day, 'YYYY-MM-DD')
from pushq.days
where retired_at is null and not exists (
    select from pg_inherits
    where inhparent = 'pushq.job_events'::regclass
    and inhrelid = to_regclass(to_char(day, '"pushq.job_events_"YYYY_MM_DD')))
union all
select 'artifacts', to_char(day, 'YYYY-MM-DD')
from pushq.days
where retired_at is null and not exists (
    select from pg_inherits
    where inhparent = 'pushq.artifact_pieces'::regclass
    and inhrelid = to_regclass(to_char(day, '"pushq.artifact_pieces_"YYYY_MM_DD')))
union all
select 'row', 'days ' || day
from pushq.attached_days() as day
where day not in (select day from pushq.days)
union all
select 'row', 'migrations ' || version
from generate_series(1, pushq.schema_version()) as version
where version not in (select version from pushq.migrations)
union all
select 'tenants', missing from pushq.missing_for_tenants() as missing where pushq.is_separated()
union all
select 'tenant', tenant.role::text
from pushq.tenant_roles as tenant
left join pg_roles on rolname = tenant.role
where rolname is null or to_regrole('pushq_tenant') is null or rolsuper or rolbypassrls
or not pg_has_role(pg_roles.oid, to_regrole('pushq_tenant'), 'usage')
union all
select 'loose', rolname::text
from pg_roles
where to_regrole('pushq_tenant') is not null and not rolsuper and pushq.is_separated()
and pg_roles.oid <> (select relowner from pg_class where oid = 'pushq.jobs'::regclass)  -- whom no policy bounds
and pg_has_role(pg_roles.oid, to_regrole('pushq_tenant'), 'usage')
and has_table_privilege(pg_roles.oid, 'pushq.jobs_unfinished', 'select, insert, update, delete')
order by kind, name
