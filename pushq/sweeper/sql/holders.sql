-- For what sessions of this role with the application_name $1 have waited for more than $2 seconds: relation, null for the end of a
-- transaction; holder, who has the lock. Of other roles, what a session is doing shows only to members of pg_read_all_stats.
select
    wanted.relation::regclass::text as relation,
    case holding.pid
        when 0 then 'a prepared transaction'
        else format(
            'pid %s (%s)', holding.pid,
            concat_ws(', ', 'role ' || its.usename, 'application ' || nullif(its.application_name, ''), its.state))
    end as holder
from pg_stat_activity as waiting
join pg_locks as wanted on wanted.pid = waiting.pid and not wanted.granted
cross join lateral (select distinct pid from unnest(pg_blocking_pids(waiting.pid)) as pid) as holding
left join pg_stat_activity as its on its.pid = holding.pid
where waiting.datname = current_database() and waiting.usename = current_user and waiting.application_name = $1
and wanted.waitstart < clock_timestamp() - $2::float8 * interval '1 second'
order by relation, holder
