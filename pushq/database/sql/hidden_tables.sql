-- The tables whose rows row-level security hides from this role: it is on, and no policy is for the role. Days are not asked
-- for by their names.
select class.relname::text as name
from pg_class as class
where class.relnamespace = 'pushq'::regnamespace and class.relkind in ('r', 'p')
and class.relname !~ '^jobs_\d{4}_\d\d_\d\d$'
and row_security_active(class.oid)
and not exists (
    select
    from pg_policy as policy
    cross join unnest(policy.polroles) as grantee
    where policy.polrelid = class.oid
    and case when grantee = 0 then true else pg_has_role(grantee, 'usage') end)
order by class.relname
