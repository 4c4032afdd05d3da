-- The tables whose rows row-level security hides from this role: security is on, and no policy is for the role. Days are left
-- out, since no statement names a day.
select class.relname::text as name
from pg_class as class
where class.relnamespace = 'pushq'::regnamespace and class.relkind in ('r', 'p')
and class.relname !~ '^(jobs|job_events|artifact_pieces)_[0-9]{4}_[0-9]{2}_[0-9]{2}$'
and row_security_active(class.oid)
and not exists (
    select
    from pg_policy as policy
    cross join unnest(policy.polroles) as grantee
    where policy.polrelid = class.oid
    and case when grantee = 0 then true else pg_has_role(grantee, 'usage') end)
order by class.relname
