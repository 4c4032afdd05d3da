"""Things of a stranger's making, under every name that pushq's SQL says without its schema, or might.

Whoever calls one of the functions or operators, or reads one of the views, trips a canary, which no rollback undoes; a
type with the name of a built-in one makes the statement fail.
"""

from __future__ import annotations

import re
from pathlib import Path

import pushq
from tests.support.jobs import Connection

SCHEMA = "evil"
CANARY = f"{SCHEMA}.canary"

_TEXTS = """
    select string_agg(text, ' ')
    from (
        select pg_get_functiondef(oid) as text from pg_proc where pronamespace = 'pushq'::regnamespace
        union all select pg_get_triggerdef(oid) from pg_trigger where tgrelid = 'pushq.jobs_unfinished'::regclass
        union all select pg_get_constraintdef(oid) from pg_constraint where connamespace = 'pushq'::regnamespace
        union all select pg_get_expr(adbin, adrelid) from pg_attrdef
    ) as texts
"""
_FUNCTIONS = """
    select format('create function {schema}.%I(%s) returns %s%s {body}', proname,
        replace(oidvectortypes(proargtypes), '"any"', 'anyelement'), case when proretset then 'setof ' else '' end,
        format_type(prorettype, null), proname) as made
    from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace and proname = any($1)
    and not (proargtypes::oid[] || prorettype && array['internal', 'cstring']::regtype[]::oid[])
    and prokind in ('f', 'a', 'w') and oidvectortypes(proargtypes) not like '%ORDER BY%'
"""
_OPERATORS = """
    select format(
        'create function {schema}.operator_%s(%s) returns %s {body}; '
        'create operator {schema}.%s (%s rightarg = %s, function = {schema}.operator_%s)',
        pg_operator.oid, concat_ws(', ', nullif(format_type(oprleft, null), '-'), format_type(oprright, null)),
        format_type(oprresult, null), oprname,
        oprname, case when oprleft = 0 then '' else 'leftarg = ' || format_type(oprleft, null) || ',' end,
        format_type(oprright, null), pg_operator.oid) as made
    from pg_operator
    where oprnamespace = 'pg_catalog'::regnamespace and oprname = any($1)
    and (oprleft = 0 or oprleft::regtype::text = any($2)) and oprright::regtype::text = any($2)
"""
_BODY = (
    "language plpgsql as ''begin perform pg_catalog.nextval(''''" + CANARY + "''''); "
    "raise exception using message = ''''hijacked: %s''''; end''"
)
_VIEWS = """
    select distinct format('create view {schema}.%I as select pg_catalog.nextval(''{canary}'') as id', relname) as made
    from pg_class
    where relkind in ('r', 'p', 'v') and (
        relnamespace = 'pushq'::regnamespace
        or relnamespace = 'pg_catalog'::regnamespace and relname = any($1))
"""
_TYPES = """
    select format('create type {schema}.%I as ()', typname) as made
    from pg_type
    where typnamespace = 'pg_catalog'::regnamespace and typrelid = 0 and typname not like '\\_%' and typname = any($1)
"""
# What the operators of our statements are between, whether as they are written or by a cast.
_OPERANDS = """
    smallint integer bigint numeric|double precision|text name|character varying|uuid boolean interval|
    timestamp with time zone|timestamp without time zone|date jsonb oid oid[] regclass "char" xid8 pg_snapshot tid
    text[] uuid[] anyarray anynonarray anyelement anycompatible anycompatiblearray
""".replace("|", "\n")
OPERANDS = [
    name
    for line in _OPERANDS.strip().splitlines()
    for name in ([line.strip()] if line.strip().startswith(("double", "character", "timestamp")) else line.split())
]


async def set_traps(owner: Connection) -> None:
    """In the schema SCHEMA, for everybody. owner: a superuser's connection."""
    await owner.execute(f"create schema {SCHEMA}; create sequence {CANARY}")
    await owner.execute(f"grant usage on schema {SCHEMA} to public; grant all on sequence {CANARY} to public")
    await set_traps_in(SCHEMA, owner, owner)
    await owner.execute(f"grant select on all tables in schema {SCHEMA} to public")


async def set_traps_in(schema: str, maker: Connection, owner: Connection) -> None:
    """As maker, of whatever owner sees named in pushq's SQL."""
    texts = await owner.fetchval(_TEXTS)
    texts += " ".join(file.read_text() for file in Path(pushq.__file__).parent.glob("*/sql/*.sql"))
    words, symbols = (
        sorted(set(re.findall(r"\b\w{1,63}\b", texts))),
        sorted(set(re.findall(r"[-+*/<>=~!@#%^&|]+", texts))),
    )
    made: list[str] = []
    for query, arguments in (
        (_FUNCTIONS, [words]),
        (_OPERATORS, [symbols, OPERANDS]),
        (_VIEWS, [words]),
        (_TYPES, [words]),
    ):
        filled = query.replace("{body}", _BODY).replace("{schema}", schema).replace("{canary}", CANARY)
        made += [row["made"] for row in await owner.fetch(filled, *arguments)]
    # One at a time: some of what is built in cannot be made by anybody.
    statements = ", ".join("$trap$" + statement + "$trap$" for statement in made)
    await maker.execute(
        f"""
        set search_path = pg_catalog;
        do $do$
        declare
            statement text;
        begin
            foreach statement in array array[{statements}] loop
                begin
                    execute statement;
                exception when invalid_function_definition or duplicate_function or undefined_object then
                    null;
                end;
            end loop;
        end
        $do$;
        reset search_path
        """
    )


async def were_tripped(owner: Connection) -> bool:
    return bool(await owner.fetchval(f"select is_called from {CANARY}"))
