-- is_foreign: whether a schema named pushq is there that pushq did not make. An empty schema is nobody's.
-- What pushq made has its table of migrations, or tells its version.
select
    not exists (
        select from pg_proc
        where pronamespace = to_regnamespace('pushq')
            and proname = 'schema_version'
            and pronargs = 0
            and prorettype = 'int'::regtype
    )
    and not exists (
        select from pg_attribute
        where attrelid = (
                select oid from pg_class where relnamespace = to_regnamespace('pushq') and relname = 'migrations')
            and attname = 'version'
            and atttypid = 'int'::regtype
            and not attisdropped
    )
    and (
        exists (select from pg_class where relnamespace = to_regnamespace('pushq'))
        or exists (select from pg_proc where pronamespace = to_regnamespace('pushq') and proname = 'schema_version')
    ) as is_foreign
