-- As finish_in_transaction.sql, and writes the event of the end, of tenant $6, attempt $7 and supervisor $8.
select
    pg_catalog.current_setting('transaction_deferrable') operator(pg_catalog.=) 'on' as is_whole,
    ended.places is null as is_accepted,
    pg_catalog.pg_my_temp_schema() operator(pg_catalog.<>) 0 as has_temporary,
    ended.told,
    pg_catalog.pg_sequence_last_value('pushq.needs_stamped') operator(pg_catalog.>) 0 and exists (
        select
        from pushq.jobs_unfinished
        where id operator(pg_catalog.=) $1::uuid and status operator(pg_catalog.=) 'running' and needs is not null
    ) as gave_units,
    pushq.note_changes(
        ended.places, '{true}', array[$1::uuid], array[$6::text], array[$7::int], null, '{}', null, '{}', '{}', $8::text),
    pg_catalog.pg_advisory_unlock_all()
from pushq.end_sorted(
    array[case
        when pg_catalog.concat(
            pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
            pg_catalog.set_config('enable_seqscan', 'off', true),
            pg_catalog.set_config('enable_hashjoin', 'off', true),
            pg_catalog.set_config('enable_mergejoin', 'off', true),
            pg_catalog.set_config('enable_memoize', 'off', true),
            pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true),
            pg_catalog.set_config('lock_timeout', '12s', true)
        ) is not null then $1::uuid
    end],
    array[$2::uuid], array[$3::float8], array[$4::float8], '{}', '{}', '{}', array[$5::text]
) as ended
