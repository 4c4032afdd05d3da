"""Who may do what in pushq's schema, as text: what the roles may by the server's own answer, and all grants.

`.venv/bin/python -m tests.security.privileges > tests/security/golden_privileges.txt` writes down what is so now. Read
the difference before you commit it: each line that is new is something that somebody may do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import ndiff
from itertools import groupby

import asyncpg

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer
from tests.support.jobs import Connection
from tests.support.roles import GROUPS, LOGINS, Logins, a_login_each

KINDS = {"r": "table", "p": "table", "S": "sequence", "v": "view", "m": "materialized view", "f": "foreign table"}

# No catalogue knows who may lock: it is tried, and undone.
_TRY_TO_LOCK = """
    create or replace function pg_temp.may_lock(role name, relation regclass, mode text) returns boolean
    language plpgsql as $$
    begin
        perform set_config('role', role, true);
        execute format('lock table only %s in %s mode nowait', relation, mode);
        raise exception using errcode = 'PQ000';
    exception
        when sqlstate 'PQ000' then return true;
        when insufficient_privilege then return false;
    end
    $$
"""
_RELATIONS = """
    select relname as name, relkind::text as kind, relrowsecurity as has_row_security, login.name as login, (
        select string_agg(entry, ' ' order by place)
        from (
            select verb.place, case
                when bool_and(is_held) then verb.verb
                when bool_or(is_held) then
                    verb.verb || '(' || string_agg(attname, ', ' order by attnum) filter (where is_held) || ')'
                end as entry
            from unnest('{select, insert, update, references}'::text[]) with ordinality as verb (verb, place)
            join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
            cross join lateral has_column_privilege(login.role, attrelid, attnum, verb.verb) as is_held
            where relkind <> 'S'
            group by verb.verb, verb.place
            union all
            select 4 + place, verb
            from unnest('{delete, truncate, trigger}'::text[]) with ordinality as verb (verb, place)
            where relkind <> 'S' and has_table_privilege(login.role, relation.oid, verb)
            union all
            select place, verb
            from unnest('{usage, select, update}'::text[]) with ordinality as verb (verb, place)
            where relkind = 'S' and has_sequence_privilege(login.role, relation.oid, verb)
            union all
            select 9, 'lock(' || case count(*) when 8 then 'all' else string_agg(mode, ', ' order by place) end || ')'
            from unnest(array['access share', 'row share', 'row exclusive', 'share update exclusive', 'share',
                'share row exclusive', 'exclusive', 'access exclusive']) with ordinality as modes (mode, place)
            where relkind in ('r', 'p', 'v')
            and pg_temp.may_lock(login.role, relation.oid, mode)
            having count(*) > 0
        ) as held
    ) as allowed
    from pg_class as relation
    cross join unnest($1::name[], $2::name[]) with ordinality as login (name, role, place)
    where relnamespace = 'pushq'::regnamespace and relkind not in ('i', 'I', 't')
    order by relname, login.place
"""
_GRANTS = """
    select grants.what, pg_get_userbyid(grants.grantee) as grantee, grants.grantee = 0 as is_public,
        lower(grants.privilege_type) as verb, grants.is_grantable
    from (
        select 'schema pushq' as what, nspowner as owner, entry.*
        from pg_namespace, aclexplode(nspacl) as entry where nspname = 'pushq'
        union all
        select relname, relowner, entry.*
        from pg_class, aclexplode(relacl) as entry where relnamespace = 'pushq'::regnamespace
        union all
        select relname || '.' || attname, relowner, entry.*
        from pg_attribute join pg_class on pg_class.oid = attrelid, aclexplode(attacl) as entry
        where relnamespace = 'pushq'::regnamespace
        union all
        select proname || '()', proowner, entry.*
        from pg_proc, aclexplode(proacl) as entry where pronamespace = 'pushq'::regnamespace
        union all
        select 'default of ' || defaclobjtype::text, null, entry.* from pg_default_acl, aclexplode(defaclacl) as entry
    ) as grants
    where grants.owner is distinct from grants.grantee
"""
_FUNCTIONS = """
    select proname || '(' || pg_get_function_identity_arguments(oid) || ')' as name, prosecdef as is_definer,
        coalesce(array_to_string(proconfig, '; '), '') as settings,
        has_function_privilege('public', oid, 'execute') as is_for_all,
        array(
            select login.name
            from unnest($1::text[], $2::name[]) with ordinality as login (name, role, place)
            where has_function_privilege(login.role, pg_proc.oid, 'execute')
            order by place) as allowed
    from pg_proc
    where pronamespace = 'pushq'::regnamespace
    order by 1
"""
_OTHERS = """
    select 'trigger ' || tgname || ' on ' || tgrelid::regclass || ' calls ' || tgfoid::regproc as thing
    from pg_trigger where tgrelid in ('pushq.jobs'::regclass, 'pushq.jobs_unfinished'::regclass)
    union all select 'view ' || relname from pg_class
    where relnamespace = 'pushq'::regnamespace and relkind in ('v', 'm', 'f')
    union all select 'rule ' || rulename || ' on ' || relname
    from pg_rewrite join pg_class on ev_class = pg_class.oid
    where relnamespace = 'pushq'::regnamespace
    union all select 'policy ' || polname || ' on ' || polrelid::regclass from pg_policy
    union all select 'event trigger ' || evtname from pg_event_trigger
    order by 1
"""
_ROLE = """
    select array_remove(array[
        case when rolsuper then 'superuser' end, case when rolcreaterole then 'createrole' end,
        case when rolcreatedb then 'createdb' end, case when rolreplication then 'replication' end,
        case when rolbypassrls then 'bypassrls' end, case when rolcanlogin then 'login' end], null) as attributes,
        array(
            select pg_get_userbyid(roleid) || case when admin_option then ' with admin option' else '' end
            from pg_auth_members where member = pg_roles.oid) as groups,
        (select count(*) from pg_class where relowner = pg_roles.oid)
            + (select count(*) from pg_proc where proowner = pg_roles.oid) as owned
    from pg_roles
    where rolname = $1
"""


async def privileges(connection: Connection, logins: Logins) -> str:
    """connection: a superuser's, outside of a transaction or in one."""
    labels = {logins.group(group): f"the {group} role" for group in GROUPS} | {
        logins.name(login): login for login in LOGINS
    }
    labels[logins.roles.tenant] = "the tenant role"
    lines = [
        *await _roles(connection, labels),
        "",
        *await _relations(connection, logins),
        *await _functions(connection, logins),
        "",
        *[row["thing"] for row in await connection.fetch(_OTHERS)],
        "",
        *await _grants(connection, labels),
    ]
    return "\n".join(lines) + "\n"


async def with_tenants(connection: Connection, logins: Logins) -> str:
    """The same, and below what is so in addition where tenants are separated."""
    before = await privileges(connection, logins)
    separation = connection.transaction()
    await separation.start()
    await connection.execute("select pushq.separate_tenants()")
    after = await privileges(connection, logins)
    await separation.rollback()
    changes = [line for line in ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    return "\n".join([before, "where tenants are separated:", *changes, ""])


async def _roles(connection: Connection, labels: Mapping[str, str]) -> list[str]:
    lines = []
    for name, label in labels.items():
        row = await connection.fetchrow(_ROLE, name)
        assert row
        groups = [labels.get(group, group) for group in row["groups"]]
        what = ", ".join([*row["attributes"], *(f"member of {group}" for group in groups)]) or "no attribute"
        lines.append(f"{label}: {what}, owns {row['owned'] or 'nothing'}")
    return lines


async def _relations(connection: Connection, logins: Logins) -> list[str]:
    """A paragraph a relation. Days that are alike have one, and so have gates."""
    await connection.execute(_TRY_TO_LOCK)
    rows = await connection.fetch(_RELATIONS, LOGINS, [logins.name(login) for login in LOGINS])
    paragraphs = []
    for name, ofs in groupby(rows, key=lambda row: row["name"]):
        of = list(ofs)
        what = KINDS[of[0]["kind"]] + (" with row-level security" if of[0]["has_row_security"] else "")
        lines = [f"  {row['login']:9}  {row['allowed'] or 'nothing'}" for row in of]
        paragraph = "\n".join([f"{what} {_family(name)}", *lines, ""])
        paragraphs.append(paragraph)
    return list(dict.fromkeys(paragraphs))


def _family(relation: str) -> str:
    return re.sub(r"^gate_\d+$", "gate_N", re.sub(r"\d{4}_\d\d_\d\d", "DAY", relation))


async def _functions(connection: Connection, logins: Logins) -> list[str]:
    lines = []
    for function in await connection.fetch(_FUNCTIONS, LOGINS, [logins.name(login) for login in LOGINS]):
        who = "everybody who may use the schema"
        if not function["is_for_all"]:
            who = f"only {', '.join(function['allowed']) or 'its owner'}"
        how = [text for text in ("as its owner" if function["is_definer"] else "", function["settings"]) if text]
        lines.append(f"function {function['name']}: {who}" + (f" ({', '.join(how)})" if how else ""))
    return lines


async def _grants(connection: Connection, labels: Mapping[str, str]) -> Iterable[str]:
    def told() -> Iterator[str]:
        for row in rows:
            grantee = "PUBLIC" if row["is_public"] else labels.get(row["grantee"], row["grantee"])
            option = " with grant option" if row["is_grantable"] else ""
            name, dot, column = row["what"].partition(".")
            yield f"granted to {grantee}: {row['verb']} on {_family(name)}{dot}{column}{option}"

    rows = await connection.fetch(_GRANTS)
    return sorted(set(told()))


async def _print() -> None:
    with EmbeddedServer() as server:
        await migrate(server.url())
        connection = await asyncpg.connect(server.url())
        async with a_login_each(connection, server.url()) as logins:
            print(await with_tenants(connection, logins), end="")
        await connection.close()


if __name__ == "__main__":
    asyncio.run(_print())
