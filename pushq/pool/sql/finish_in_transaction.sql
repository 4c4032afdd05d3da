-- Ends the job $1, held under the token $2, as succeeded with the result $5, as the last statement of its handler's
-- transaction. $3 and $4: as in pushq.end_sorted(). Returns whether the transaction is still the one that pushq has begun, which is
-- deferrable; whether the job was held; whether the session has temporary tables; and what finish.sql returns. The planner's
-- settings are those of pushq's own sessions, and hold to the end of the transaction, as no other statement follows. They come too late for
-- this statement itself, so nothing here may be cheaper to plan for given values: the server would plan anew each time.
-- What the session has locked by advisory locks is let go.
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
