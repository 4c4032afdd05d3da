-- What has held back vacuum for more than $1 seconds, the oldest first: open transactions, prepared transactions, replication slots
-- and standbys. kind; name: whose; seconds: for how long, null if unknown; remedy. The transactions of other roles show only to
-- members of pg_read_all_stats.
select kind, name, seconds, remedy
from (
    select
        'transaction' as kind,
        format('of pid %s (role %s, application %s, %s)', pid, usename, nullif(application_name, ''), state) as name,
        extract(epoch from now() - xact_start)::float8 as seconds,
        format('select pg_terminate_backend(%s)', pid) as remedy
    from pg_stat_activity
    where xact_start < now() - $1::float8 * interval '1 second' and pid <> pg_backend_pid()
    and backend_type = 'client backend' and datname = current_database()
    union all
    select
        'prepared transaction', format('%L of role %s', gid, owner), extract(epoch from now() - prepared)::float8,
        format('rollback prepared %L, or commit prepared', gid)
    from pg_prepared_xacts
    where prepared < now() - $1::float8 * interval '1 second' and database = current_database()
    union all
    select
        'unused replication slot', slot_name::text, null,
        format('let its reader go on, or select pg_drop_replication_slot(%L)', slot_name)
    from pg_replication_slots
    where not active
) as holding
order by seconds desc nulls last
limit 5
