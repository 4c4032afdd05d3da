-- Sessions that hold the advisory lock $1 and cannot be migrators: the role neither owns nor may create pushq's schema.
select activity.pid, activity.usename::text as role
from pg_locks as lock
join pg_stat_activity as activity using (pid)
where lock.locktype = 'advisory' and lock.granted
and lock.database = (select oid from pg_database where datname = current_database())
and (lock.classid::bigint << 32 | lock.objid::bigint) = $1 and lock.objsubid = 1
and not has_database_privilege(activity.usesysid, current_database(), 'create')
and not exists (
    select from pg_namespace where nspname = 'pushq' and pg_has_role(activity.usesysid, nspowner, 'usage'))
