"""All that a database is beside its rows, a line a thing: what pg_dump would say, and a little more."""

from __future__ import annotations

from tests.support.jobs import Connection


async def catalogue(connection: Connection) -> frozenset[str]:
    """The connection must have an empty search_path, which makes every name whole."""
    return frozenset(line for (line,) in await connection.fetch(_CATALOGUE))


# By names, not by oids, which differ where something was dropped and made again as it had been; and a right that was
# granted and taken back was never there.
_CATALOGUE = """
with ours as (
    select oid from pg_namespace where nspname <> 'information_schema' and not starts_with(nspname, 'pg_')
),
things (kind, thing) as (
    select 'database', row(datdba::regrole, datallowconn, datconnlimit, coalesce(datacl, acldefault('d', datdba)))
    from pg_database where datname = current_database()
    union all
    select 'setting', row(setrole::regrole, setconfig)
    from pg_db_role_setting join pg_database on pg_database.oid = setdatabase
    where datname = current_database()
    union all
    select 'schema', row(nspname, nspowner::regrole, coalesce(nspacl, acldefault('n', nspowner)))
    from pg_namespace where not starts_with(nspname, 'pg_t')
    union all
    select 'relation', row(
        oid::regclass, relkind, relpersistence, relowner::regrole,
        coalesce(relacl, acldefault((case relkind when 'S' then 's' else 'r' end)::"char", relowner)),
        reloptions, relrowsecurity, relforcerowsecurity, relreplident, pg_get_expr(relpartbound, oid),
        array(select inhparent::regclass::text from pg_inherits where inhrelid = pg_class.oid),
        exists (select from pg_inherits where inhrelid = pg_class.oid and inhdetachpending))
    from pg_class where relnamespace in (select oid from ours)
    union all
    select 'column', row(
        attrelid::regclass, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
        attstorage, attstattarget, nullif(attacl, '{}'), attoptions, pg_get_expr(adbin, adrelid),
        col_description(attrelid, attnum))
    from pg_attribute
    join pg_class on pg_class.oid = attrelid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where attnum > 0 and relkind not in ('i', 'S') and relnamespace in (select oid from ours)
    union all
    select 'constraint', row(conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated)
    from pg_constraint where connamespace in (select oid from ours)
    union all
    select 'index', row(pg_get_indexdef(indexrelid), indisvalid, indisready, indisclustered, indisreplident)
    from pg_index join pg_class on pg_class.oid = indexrelid where relnamespace in (select oid from ours)
    union all
    select 'sequence', row(seqrelid::regclass, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle)
    from pg_sequence
    union all
    select 'function', row(
        oid::regprocedure, prokind, proowner::regrole, prosecdef, proleakproof, proisstrict, provolatile, proparallel,
        proconfig, coalesce(proacl, acldefault('f', proowner)), prosrc, pg_get_function_sqlbody(oid),
        pg_get_function_result(oid), pg_get_function_arguments(oid))
    from pg_proc where pronamespace in (select oid from ours)
    union all
    select 'trigger', row(pg_get_triggerdef(oid), tgenabled) from pg_trigger where not tgisinternal
    union all
    select 'rule', row(ev_class::regclass, pg_get_ruledef(oid), ev_enabled) from pg_rewrite where oid >= 16384
    union all
    select 'policy', row(polrelid::regclass, polname, polcmd, polpermissive, polroles, polqual, polwithcheck)
    from pg_policy
    union all
    select 'type', row(
        oid::regtype, typowner::regrole, typtype, coalesce(typacl, acldefault('T', typowner)), typnotnull, typdefault)
    from pg_type where typnamespace in (select oid from ours)
    union all
    select 'default rights', row(defaclrole::regrole, defaclnamespace, defaclobjtype, defaclacl) from pg_default_acl
    union all
    select 'rights in the system''s schemas', row(
        (select md5(string_agg(row(oid, relacl)::text, '' order by oid)) from pg_class
            where oid < 16384 and relacl is not null),
        (select md5(string_agg(row(oid, proacl)::text, '' order by oid)) from pg_proc
            where oid < 16384 and proacl is not null))
    union all
    select 'publication', row(pubname, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate) from pg_publication
    union all
    select 'published', row(prpubid, prrelid::regclass) from pg_publication_rel
    union all
    select 'event trigger', row(evtname, evtevent, evtenabled) from pg_event_trigger
    union all
    select 'extension', row(extname, extversion) from pg_extension
    union all
    select 'replication slot', row(slot_name) from pg_replication_slots where database = current_database()
    union all
    select 'prepared transaction', row(gid) from pg_prepared_xacts where database = current_database()
    union all
    select 'large object', row(count(*)) from pg_largeobject_metadata
    union all
    select 'things of other kinds', row(classid::regclass, count(*)) from pg_depend
    where objid >= 16384
        and classid not in (
            'pg_class'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_proc'::regclass,
            'pg_trigger'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_type'::regclass)
    group by classid
)
select kind || ' ' || thing::text from things
"""
