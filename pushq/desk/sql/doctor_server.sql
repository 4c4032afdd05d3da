-- The database as a newcomer finds it. kind: standby; empty (no schema pushq); foreign (a schema pushq that pushq did not make); ours.
select
    current_user::text as role,
    current_setting('server_version') as version,
    case
        when pg_is_in_recovery() then 'standby'
        when to_regnamespace('pushq') is null then 'empty'
        when to_regclass('pushq.migrations') is null and exists (
            select from pg_class where relnamespace = to_regnamespace('pushq')) then 'foreign'
        when to_regclass('pushq.migrations') is null then 'empty'
        else 'ours'
    end as kind
