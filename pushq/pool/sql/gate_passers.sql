-- The transactions that are writing to the table now, prepared transactions included. $1: only transactions of this list,
-- null: all. An inserter that read a gate before the gate was opened is among the writing transactions, or has ended.
select coalesce(array_agg(distinct virtualtransaction), '{}') as transactions
from pg_catalog.pg_locks
where locktype = 'relation'
and database = (select oid from pg_catalog.pg_database where datname = current_database())
and relation in ('pushq.jobs'::regclass, 'pushq.jobs_unfinished'::regclass)
and mode = 'RowExclusiveLock'
and granted
and pid is distinct from pg_backend_pid()
and ($1::text[] is null or virtualtransaction = any($1))
