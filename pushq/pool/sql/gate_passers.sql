-- The transactions that are writing to the table now, prepared ones included: whoever read a gate before it was opened is
-- among them, or has ended. ($1: only those of this list.)
select coalesce(array_agg(distinct virtualtransaction), '{}') as transactions
from pg_catalog.pg_locks
where locktype = 'relation'
and database = (select oid from pg_catalog.pg_database where datname = current_database())
and relation in ('pushq.jobs'::regclass, 'pushq.jobs_unfinished'::regclass)
and mode = 'RowExclusiveLock'
and granted
and pid is distinct from pg_backend_pid()
and ($1::text[] is null or virtualtransaction = any($1))
