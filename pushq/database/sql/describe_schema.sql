-- The parts of pushq's schema, a row each, for a comparison with schema.txt: tables, columns, rules, indexes, sequences,
-- triggers, functions and rights. Rights are shown of everybody, and of the roles $1 (producer, worker, observer, admin)
-- that exist and may use the schema. Days are left out. The 64 gates are one row with their number. Long definitions are shown as a
-- checksum.
with relation as (
    select oid, relname::text as name, relkind, relpartbound, regexp_replace(relname, '^gate_[0-9]+$', 'gate_N') as family
    from pg_class
    where relnamespace = 'pushq'::regnamespace and relname !~ '^(jobs|job_events|artifact_pieces)_[0-9]{4}_[0-9]{2}_[0-9]{2}'
),
routine as (
    select pg_proc.*, proname || '(' || oidvectortypes(proargtypes) || ')' as name
    from pg_proc
    where pronamespace = 'pushq'::regnamespace
),
role as (
    select 'public' as name, 'everybody' as label
    union all
    select rolname::text, label
    from unnest($1::text[], '{producer,worker,observer,admin}'::text[]) as given (name, label)
    join pg_roles on rolname = given.name
    where has_schema_privilege(pg_roles.oid, 'pushq', 'usage')  -- by oid: a role may be dropped meanwhile
),
part (kind, name, definition) as (
    select
        'table', name,
        case relkind when 'p' then pg_get_partkeydef(oid) else coalesce(pg_get_expr(relpartbound, oid), '') end
    from relation
    where relkind in ('r', 'p')
    union all
    select
        'column', relation.name || '.' || attname,
        concat_ws(' ', format_type(atttypid, atttypmod),
            case when attcollation <> typcollation then 'collate ' || attcollation::regcollation end,
            case when attnotnull then 'not null' end,
            case when attidentity <> '' then 'identity' end,
            case when adbin is not null then
                case attgenerated when '' then 'default ' else 'generated ' end || pg_get_expr(adbin, adrelid) end)
    from relation
    join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
    join pg_type on pg_type.oid = atttypid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where relkind in ('r', 'p') and relation.name <> 'jobs_unfinished'  -- has the columns of jobs
    union all
    select 'rule', relation.name || '.' || conname, pg_get_constraintdef(pg_constraint.oid)
    from relation
    join pg_constraint on conrelid = relation.oid and contype in ('c', 'f', 'p', 'u') and coninhcount = 0
    union all
    select
        'index', relation.name, pg_get_indexdef(relation.oid) || case when indisvalid then '' else ' (invalid)' end
    from relation
    join pg_index on indexrelid = relation.oid
    union all
    select 'sequence', family, '' from relation where relkind = 'S'
    union all
    select
        'trigger', relation.name || '.' || tgname,
        case tgenabled when 'A' then 'always' when 'D' then 'disabled' when 'R' then 'on replicas' else 'at the origin' end
            || ' sum ' || md5(pg_get_triggerdef(pg_trigger.oid))
    from relation
    join pg_trigger on tgrelid = relation.oid and not tgisinternal
    union all
    select
        'function', name,
        concat_ws(' ', 'returns', case when proretset then 'setof' end, format_type(prorettype, null),
            case provolatile when 'i' then 'immutable' when 's' then 'stable' end,
            case when prosecdef then 'security definer' end, array_to_string(proconfig, ' '),
            -- not uuidv7(), which depends on the server's version
            case when proname <> 'uuidv7' then 'sum ' || md5(coalesce(pg_get_function_sqlbody(oid), prosrc)) end)
    from routine
    union all
    select 'right', role.label || ': ' || verb || ' on ' || family, ''
    from role, relation, unnest('{select,insert,update,delete}'::text[]) as verb
    where case
        when relkind in ('r', 'p') then has_table_privilege(role.name, relation.oid, verb)
        when relkind = 'S' then verb in ('select', 'update') and has_sequence_privilege(role.name, relation.oid, verb)
        else false end
    union all
    select 'right', role.label || ': ' || verb || ' on ' || relation.name || '.' || attname, ''
    from role, relation
    join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
    cross join unnest('{select,insert,update}'::text[]) as verb
    where relkind in ('r', 'p') and not has_table_privilege(role.name, relation.oid, verb)
    and has_column_privilege(role.name, relation.oid, attnum, verb)
    union all
    select 'right', role.label || ': execute on ' || routine.name, ''
    from role, routine
    where has_function_privilege(role.name, routine.oid, 'execute')
)
select
    kind, name,
    case when count(*) = 1 then regexp_replace(max(definition), '\s+', ' ', 'g') else count(*)::text end as definition
from part
group by kind, name
order by kind, name collate "C"
