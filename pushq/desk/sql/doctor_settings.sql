-- Settings that hurt, as this role has them in this database, and what hurts with the same remedy. name, value; what: what follows;
-- remedy.
select name, setting as value, what, remedy
from (values
    ('fsync', 'off', 'a crash of the server can lose or damage every table', 'alter system set fsync = on'),
    ('full_page_writes', 'off', 'a crash of the server can damage tables', 'alter system set full_page_writes = on'),
    ('synchronous_commit', 'off', 'a crash of the server loses jobs that were just committed',
        'set synchronous_commit to on where it was set: in the server, the database or the role'),
    ('autovacuum', 'off', 'tables grow without end, and claims get slower', 'alter system set autovacuum = on'),
    ('track_counts', 'off', 'autovacuum does not run', 'alter system set track_counts = on'),
    ('default_transaction_read_only', 'on', 'jobs cannot be inserted',
        'set default_transaction_read_only to off where it was set: in the server, the database or the role')
) as harmful (name, bad, what, remedy)
join pg_settings using (name)
where setting = bad
union all
select 'pushq.notify', 'off', 'INSERTs of this role wake no pool, so jobs wait for the poll',
    'reset pushq.notify where it was set: in the server, the database or the role'
where current_setting('pushq.notify', true) = 'off'
union all
select 'autovacuum_enabled of pushq.' || relname, 'off', 'the table grows without end, and claims get slower',
    format('alter table pushq.%I reset (autovacuum_enabled)', relname)
from pg_class
where relnamespace = 'pushq'::regnamespace and 'autovacuum_enabled=false' = any(reloptions)
union all
select 'max_connections', current_setting('max_connections') || ', of which ' || used || ' are in use',
    'the next supervisor or app may be refused', 'end idle sessions, use a pooler, or raise max_connections'
from (select count(*) as used from pg_stat_activity where backend_type = 'client backend') as sessions
where used >= 0.9 * (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int)
union all
select 'transaction ids', age || ' are in use', 'the server refuses all writes at about two billion',
    'end old transactions and replication slots, then `vacuum freeze` as the owner of the tables'
from (select age(datfrozenxid) as age from pg_database where datname = current_database()) as used
where age > 1500000000
order by name
