"""docs/how-to/tenants.md, as it is written: a tenant reaches its own jobs alone, and pushq runs those of all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq import NewJob, Queue
from pushq.database.migrate import migrate
from pushq.database.roles import grants
from pushq.database.schema import faults
from tests.promises.test_keys import WAYS, enqueue
from tests.support.commands import invoke
from tests.support.jobs import Connection, finished, has_count, insert, row_of
from tests.support.roles import Logins, a_role, drop, fresh_roles, granted, session, url_as
from tests.support.supervisors import ROOT, supervising
from tests.support.waiting import eventually

LOGIN = "login password 'secret'"
SOMEBODY_WAITS = (
    "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
)
REFUSED = "violates row-level security policy"
_, FOR_A_ROLE, BY_SETTING, BY_COPY, SUPABASE, _, CASCADE, PARTS, UNITED = re.findall(
    r"```sql\n(.*?)```", (ROOT / "docs" / "how-to" / "tenants.md").read_text(), re.DOTALL
)


@asynccontextmanager
async def another(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def is_tenant(connection: Connection, role: str, tenant: str) -> None:
    await connection.execute("insert into pushq.tenant_roles (role, tenant_id) values ($1, $2)", role, tenant)


async def submit(connection: Connection, owner: str | None, **columns: Any) -> UUID:
    (job,) = await insert(connection, "echo", payload={"of": owner}, tenant_id=owner, unique_key="one", **columns)
    return job


async def seen(connection: Connection) -> set[str | None]:
    return {row["tenant_id"] for row in await connection.fetch("select tenant_id from pushq.jobs")}


# Who is which tenant ------------------------------------------------------------------------------------------------


async def test_a_tenant_by_setting_reaches_its_own_jobs_and_without_a_setting_none(
    connection: Connection, database_url: str, app: str
) -> None:
    async with (
        session(database_url, app, "acme") as acme,
        session(database_url, app, "globex") as globex,
        session(database_url, app, "") as empty,
        session(database_url, app) as nobody,
    ):
        await submit(acme, "acme")
        await submit(globex, "globex")  # with an equal key
        for session_, owner in ((acme, "globex"), (acme, None), (nobody, "acme"), (nobody, None), (empty, None)):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=REFUSED):
                await submit(session_, owner)

        assert [await seen(one) for one in (acme, globex, empty, nobody)] == [{"acme"}, {"globex"}, set(), set()]
    assert await seen(connection) == {"acme", "globex"}


async def test_a_tenant_by_role_is_this_tenant_whatever_it_sets(
    connection: Connection, database_url: str, app: str
) -> None:
    await is_tenant(connection, app, "acme")
    settings: list[str | None] = ["acme", "globex", "", None]
    for tenant in settings:
        async with session(database_url, app, tenant) as acme:
            await submit(acme, "acme", id=uuid4(), queue=f"q{tenant}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=REFUSED):
                await submit(acme, "globex")
            assert await seen(acme) == {"acme"}
            await connection.execute("update pushq.jobs set unique_key = null")


async def test_whoever_inherits_a_tenant_s_role_is_this_tenant_and_who_inherits_two_names_one(
    connection: Connection, database_url: str, app: str
) -> None:
    async with a_role(connection, app) as of_one, a_role(connection, "pushq_tenant") as other:
        await is_tenant(connection, app, "acme")
        await is_tenant(connection, other, "globex")
        async with session(database_url, of_one, "globex") as one:
            assert await one.fetchval("select pushq.tenant()") == "acme"
        await connection.execute(f"grant {other} to {of_one}")
        named: dict[str | None, str | None] = {"acme": "acme", "globex": "globex", "else": None, None: None}
        for tenant, is_now in named.items():
            async with session(database_url, of_one, tenant) as both:
                assert await both.fetchval("select pushq.tenant()") == is_now
                await both.execute(f"set role {other}")
                assert await both.fetchval("select pushq.tenant()") == "globex"


async def test_a_tenant_that_is_a_producer_as_well_stays_a_tenant(
    connection: Connection, database_url: str, app: str
) -> None:
    async with granted(connection) as roles:
        await connection.execute(f"grant {roles.producer}, {roles.worker} to {app}")
        await submit(connection, "globex")
        async with session(database_url, app, "acme") as acme:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=REFUSED):
                await submit(acme, "globex")
            assert await acme.fetch("select id from pushq.jobs") == []
            assert await acme.execute("update pushq.jobs set priority = 1") == "UPDATE 0"
        await connection.execute(f"revoke {roles.producer}, {roles.worker} from {app}")


@pytest.mark.usefixtures("separated")
async def test_a_role_with_a_strange_name_is_a_tenant(connection: Connection) -> None:
    """Names are written in pushq.tenant_roles as they are, without quotes."""
    name = f'Acme "{uuid4().hex[:8]}" ünd Söhne, none'
    quoted = '"' + name.replace('"', '""') + '"'
    await connection.execute(f"create role {quoted}; grant pushq_tenant to {quoted}")
    await is_tenant(connection, name, "acme")
    await connection.execute(f"set role {quoted}")
    assert await connection.fetchval("select array[pushq.tenant(), pushq.caller()]") == ["acme", name]
    await connection.execute(f"reset role; drop role {quoted}")


# Nobody leaves its tenant -------------------------------------------------------------------------------------------


async def test_a_tenant_s_session_stays_the_tenant_s_whatever_role_it_sets(
    connection: Connection, database_url: str, app: str
) -> None:
    await submit(connection, "globex")
    async with a_role(connection, "pushq_tenant") as service:
        await connection.execute(f"grant {service} to {app}")
        await is_tenant(connection, app, "acme")
        for role in ("pushq_tenant", service):
            for setting in ("acme", "globex"):
                async with session(database_url, app, setting) as acme:
                    await acme.execute(f"set role {role}")
                    assert await seen(acme) == set()
                    assert await acme.fetchval("select pushq.tenant()") == "acme"
                    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=REFUSED):
                        await submit(acme, "globex", id=uuid4())


CODE = "as 'select tenant_id from pushq.jobs'"


async def test_code_of_a_tenant_that_another_session_runs_reaches_the_tenant_s_jobs_alone(
    connection: Connection, database_url: str, app: str
) -> None:
    await connection.execute(f"create schema open; grant all on schema open to public; grant {app} to current_user")
    for tenant in ("acme", "globex"):
        await submit(connection, tenant)
    await is_tenant(connection, app, "acme")
    async with session(database_url, app) as acme, a_role(connection) as other, a_role(connection) as group:
        await connection.execute(f"grant {group} to {app}")
        await acme.execute(
            f"create function open.theirs() returns setof text language sql security definer {CODE};"
            "create materialized view open.stored as select tenant_id from pushq.jobs;"
            "create table open.bait (n int);"
            "create table open.loot (tenant_id text);"
            "create function open.loot() returns trigger language plpgsql security definer as "
            "$$ begin insert into open.loot select tenant_id from pushq.jobs; return null; end $$;"
            "create trigger loot after insert on open.bait for each row execute function open.loot()"
        )
        for stranger in (connection, acme):
            await stranger.execute("set pushq.tenant_id = 'globex'")
        async with session(database_url, other, "globex") as bystander:
            assert {row[0] for row in await bystander.fetch("select * from open.theirs()")} <= {"acme"}
        assert await connection.fetchval("select array_agg(theirs) from open.theirs()") == ["acme"]
        await connection.execute("refresh materialized view open.stored; insert into open.bait values (1)")
        got = "select array_agg(got.tenant_id) from (table open.stored union table open.loot) as got"
        assert await connection.fetchval(got) == ["acme"]

        await acme.execute(f"create function pg_temp.mine() returns setof text language sql security definer {CODE}")
        async with acme.transaction():
            await acme.execute(f"declare held cursor for select tenant_id from pushq.jobs; set role {group}")
            assert [row["tenant_id"] for row in await acme.fetch("fetch all held")] == ["acme"]
            assert [row["mine"] for row in await acme.fetch("select * from pg_temp.mine()")] == ["acme"]
        await acme.execute("reset role")
        await connection.execute("reset pushq.tenant_id; drop schema open cascade")


async def test_nobody_asks_for_the_tenant_of_another_s_role(
    connection: Connection, database_url: str, app: str
) -> None:
    async with a_role(connection, "pushq_tenant") as other:
        await is_tenant(connection, other, "globex")
        async with session(database_url, app, "acme") as acme:
            assert await acme.fetchval("select pushq.tenant_of($1)", other) is None
            with pytest.raises(asyncpg.UndefinedObjectError):
                await acme.fetchval("select pushq.tenant_of('nobody of this name')")


# The page -----------------------------------------------------------------------------------------------------------


async def test_the_page_s_statements_do_what_the_page_says(connection: Connection, database_url: str, app: str) -> None:
    login = f"acme_app_{uuid4().hex[:8]}"
    await connection.execute(FOR_A_ROLE.replace("acme_app", login))
    async with session(database_url, login) as acme, session(database_url, app) as by_setting:
        assert await acme.fetchval("select pushq.tenant()") == "acme"
        await by_setting.execute(BY_SETTING)
        assert len(await acme.fetch("select id from pushq.jobs where status = 'queued'")) == 1

        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await Queue().copy([NewJob("echo", tenant_id="acme")], connection=acme)
        assert len(await Queue().insert_many([NewJob("echo", tenant_id="acme")], connection=acme)) == 1
        create, _, copy = BY_COPY.partition("-- \\copy arriving from 'jobs.csv' csv\n")
        await acme.execute(create)
        await acme.copy_records_to_table("arriving", records=[("echo", "{}", "acme")] * 3)
        await acme.execute(copy)
        assert len(await acme.fetch("select id from pushq.jobs")) == 5
    await connection.execute(f"drop role {login}")


@pytest.mark.usefixtures("separated")
async def test_a_request_by_postgrest_is_of_the_tenant_in_its_token(connection: Connection, database_url: str) -> None:
    await connection.execute(SUPABASE)
    async with (
        a_role(connection, "pushq_tenant", attributes="nologin") as authenticated,
        a_role(connection, authenticated, attributes=f"noinherit {LOGIN}") as authenticator,
        session(database_url, authenticator) as api,
    ):
        async with a_role(connection, attributes="nologin") as anon:
            await connection.execute(f"grant {anon} to {authenticator}")
            await api.execute(f"begin; set local role {anon}; select app.take_tenant(); rollback")
        for claims, sees in (
            ('{"app_metadata": {"tenant_id": "acme"}}', ["acme"]),
            ('{"app_metadata": {}, "user_metadata": {"tenant_id": "acme"}}', []),
            ("", []),
        ):
            async with api.transaction():
                await api.execute("select set_config('request.jwt.claims', $1, true)", claims)
                await api.execute(f"set local role {authenticated}")
                await api.execute("select app.take_tenant()")
                if sees:
                    await submit(api, "acme")
                assert await seen(api) == set(sees)


@pytest.mark.usefixtures("separated")
async def test_deleting_a_tenant_of_the_app_deletes_its_jobs_in_the_same_transaction(connection: Connection) -> None:
    await connection.execute("create schema app")
    await connection.execute(CASCADE)
    tenants = [
        await connection.fetchval("insert into app.tenants values (gen_random_uuid()) returning id") for _ in "ab"
    ]
    for tenant in tenants:
        await submit(connection, str(tenant))
    async with connection.transaction():
        await connection.execute("delete from app.tenants where id = $1", tenants[0])
        assert await seen(connection) == {str(tenants[1])}


async def test_parts_of_the_index_that_were_built_before_are_taken_and_new_days_have_one(
    connection: Connection,
) -> None:
    for row in await connection.fetch(PARTS):
        await connection.execute(row["format"])
    parts = (
        "select indexrelid from pg_index join pg_class on oid = indexrelid "
        "where relname ~ '^jobs_.*_of_tenant' order by 1"
    )
    built = await connection.fetch(parts)
    await connection.execute("select pushq.separate_tenants(); select pushq.make_days(5)")
    of_parent = "select count(*) from pg_inherits where inhparent = 'pushq.jobs_of_tenant'::regclass"

    assert len(built) == await connection.fetchval("select 1 + count(*) from pushq.days") - 2
    assert await connection.fetch(parts) == built
    assert await connection.fetchval(of_parent) == len(built) + 2
    await connection.execute(UNITED)


# What pushq does ----------------------------------------------------------------------------------------------------


async def test_supervisors_run_everybody_s_jobs_and_each_tenant_sees_its_own(
    connection: Connection, database_url: str, app: str, logins: Logins
) -> None:
    async with session(database_url, app, "acme") as acme, session(database_url, app, "globex") as globex:
        jobs = {await submit(acme, "acme"): acme, await submit(globex, "globex"): globex}
        with supervising(logins.url_as("worker")):
            rows = await finished(connection, *jobs)
        assert {row["status"] for row in rows} == {"succeeded"}
        for job, owner in jobs.items():
            assert [row["id"] for row in await owner.fetch("select id, status, result from pushq.jobs")] == [job]
        for login in ("worker", "observer", "admin"):
            listed = invoke("jobs", "--json", url=logins.url_as(login))
            assert all(str(job) in listed.stdout for job in jobs), login


async def test_a_tenant_s_newest_jobs_are_found_by_the_index_in_order(
    connection: Connection, database_url: str, app: str
) -> None:
    await connection.execute(
        "insert into pushq.jobs (task, tenant_id) select 'echo', 'tenant ' || n % 2 from generate_series(1, 9999) n;"
        "analyze pushq.jobs"
    )
    async with session(database_url, app, "tenant 1") as tenant:
        plan = await tenant.fetch("explain (costs off) select id from pushq.jobs order by enqueued_at desc limit 20")
    text = "\n".join(row[0] for row in plan)
    assert "jobs_unfinished_tenant_id_enqueued_at_idx" in text
    assert "Sort\n" not in text
    assert "Seq Scan" not in text


async def test_a_tenant_s_keys_are_its_own_and_it_learns_nothing_of_another_s(
    connection: Connection, database_url: str, app: str
) -> None:
    await is_tenant(connection, app, "acme")
    async with session(database_url, app) as acme:
        for way in WAYS:
            key = f"k {way}"
            theirs, _ = await enqueue(connection, unique_key=key, tenant_id="globex", **way)
            mine, inserted = await enqueue(acme, unique_key=key, tenant_id="acme", **way)
            assert inserted
            assert await enqueue(acme, unique_key=key, tenant_id="acme", payload='{"n": 2}', **way) == (mine, False)
            for other in ("globex", None):
                said = []
                for one in (key, "a key that nobody has"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
                        await enqueue(acme, unique_key=one, tenant_id=other, **way)
                    said.append(str(refused.value))
                assert said[0] == said[1]
            assert (await row_of(connection, theirs))["payload"] == "{}"
        for call in (
            "open_window('k {}', 'globex', '1 hour')",
            "note_window('k {}', 'globex', gen_random_uuid())",
            (
                "find_standing('x', '{}', 'q', 0::smallint, null, null, null, 'k {}', 'globex', null, true, null, "
                "null, null, null)"
            ),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="may insert no jobs of tenant_id 'globex'"):
                await acme.execute(f"select pushq.{call}")


async def test_a_tenant_reaches_nothing_else(connection: Connection, database_url: str, app: str) -> None:
    """Each object of the schema is closed to tenants, or separates them: a new one that does neither is found here."""
    open_ = await connection.fetch(
        """
        select relname, relkind::text as kind, relrowsecurity as is_separated,
            exists (select from pg_policy where polrelid = class.oid and not polpermissive
                and polroles = array[to_regrole('pushq_tenant')]::oid[]) as has_policy
        from pg_class as class
        where relnamespace = 'pushq'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
        and has_any_column_privilege('pushq_tenant', class.oid, 'select, insert, update, references')
        """
    )
    assert {row["relname"] for row in open_} == {
        "jobs",
        "job_events",
        "artifacts",
        "webhooks",
        "schedules",
        "migrations",
    }
    for row in open_:
        if row["relname"] != "migrations":  # of no tenant
            assert row["kind"] == ("r" if row["relname"] in ("artifacts", "webhooks", "schedules") else "p")
            assert row["is_separated"]
            assert row["has_policy"]
    definers = await connection.fetch(
        """
        select proname, prosrc, proconfig from pg_proc
        where pronamespace = 'pushq'::regnamespace and prosecdef
        and has_function_privilege('pushq_tenant', oid, 'execute')
        """
    )
    for row in definers:
        assert "search_path=pg_catalog, pg_temp" in row["proconfig"]
        asks = re.search(
            r"pushq\.(may_touch|lock_job|edit_queued|refuse_other_tenant|find_standing|meet_standing|find_schedule)\(",
            row["prosrc"],
        )
        assert asks or row["proname"] == "tenant_of"
    day = await connection.fetchval("select to_char(min(day), 'YYYY_MM_DD') from pushq.days")
    async with session(database_url, app, "acme") as acme:
        for forbidden in (
            "select * from pushq.jobs", "select pushq.unite_tenants()",
            "table pushq.jobs_unfinished", "table pushq.tenant_roles", "table pushq.queues", "table pushq.tallies",
            "select token from pushq.jobs", "select supervisor from pushq.jobs", "delete from pushq.jobs",
            "update pushq.jobs set priority = 0", "select pushq.delete_tenant('globex')",
            "select pushq.separate_tenants()", "select pushq.may_touch('globex')", "select pushq.grant_to_tenants()",
            "insert into pushq.tenant_roles values (current_user, 'globex')",
            f"table pushq.jobs_{day}",
        ):  # fmt: skip
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await acme.execute(forbidden)


async def test_a_refusal_tells_a_tenant_nothing_of_another_s_job(database_url: str, app: str) -> None:
    async with session(database_url, app, "acme") as acme, session(database_url, app, "globex") as globex:
        taken = await submit(globex, "globex", correlation_id="secret")
        for columns in ({"id": taken}, {"id": taken, "unique_key": "one"}):
            with pytest.raises(asyncpg.UniqueViolationError) as refused:
                await insert(acme, "echo", tenant_id="acme", **columns)
            assert refused.value.detail is None
            assert "secret" not in str(refused.value)


# Events ---------------------------------------------------------------------------------------------------------------


async def test_a_tenant_reads_the_events_of_its_own_jobs_and_not_who_made_them(
    connection: Connection, database_url: str, app: str
) -> None:
    for owner in ("acme", "globex", None):
        job = await submit(connection, owner)
        await connection.execute("select pushq.cancel($1)", job)
    async with session(database_url, app, "acme") as acme, session(database_url, app) as nobody:
        told = await acme.fetch("select kind, tenant_id from pushq.job_events")
        assert [tuple(event) for event in told] == [("cancelled", "acme")]
        assert await nobody.fetch("select kind from pushq.job_events") == []
        for hidden in ("actor", "detail", "*"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await acme.execute(f"select {hidden} from pushq.job_events")
        for forbidden in ("insert into pushq.job_events (kind) values ('note')", "delete from pushq.job_events"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await acme.execute(forbidden)


async def test_a_tenant_adds_notes_to_its_own_jobs_alone(connection: Connection, database_url: str, app: str) -> None:
    own, other, nobody_s = [await submit(connection, owner) for owner in ("acme", "globex", None)]
    async with session(database_url, app, "acme") as acme:
        assert await acme.fetchval("select pushq.note($1, '1')", own)
        for foreign in (other, nobody_s, uuid4()):
            with pytest.raises(asyncpg.ForeignKeyViolationError, match=f"pushq.note: there is no job {foreign}"):
                await acme.execute("select pushq.note($1, '1')", foreign)


async def test_the_events_of_a_tenant_are_deleted_after_its_jobs(connection: Connection) -> None:
    for owner in ("acme", "globex"):
        jobs = await insert(connection, "echo", 3, tenant_id=owner)
        for job in jobs:
            await connection.execute("select pushq.cancel($1)", job)
    steps = [await connection.fetchval("select pushq.delete_tenant('acme', 2)") for _ in range(5)]
    assert steps == [2, 1, 2, 0, 0]
    left = await connection.fetch("select distinct tenant_id from pushq.job_events")
    assert [row["tenant_id"] for row in left] == ["globex"]


# Separating ---------------------------------------------------------------------------------------------------------


TABLES = ("artifacts", "job_events", "jobs", "schedules", "webhooks")


async def test_tenants_are_separated_once_and_again_what_a_restore_has_lost(
    connection: Connection, database_url: str
) -> None:
    drop_both = ["drop policy tenants on pushq.jobs", "drop policy by_grants on pushq.jobs"]
    disable = "alter table pushq.jobs disable row level security"
    own = "tenant_id = (select pushq.tenant())"
    permissive = f"create policy tenants on pushq.jobs to pushq_tenant using ({own}) with check ({own})"
    assert await faults(database_url) == []
    separate = "select pushq.separate_tenants()"
    assert await connection.fetchval(separate) == "separated"
    assert await connection.fetchval(separate) == "already separated"
    assert await faults(database_url) == []
    for lost, said in (
        (drop_both[0], "policy tenants of jobs"),
        (drop_both[1], "policy by_grants of jobs"),
        (disable, "row-level security of jobs"),
        (
            "drop owned by pushq_tenant",
            ", ".join(
                [
                    *(f"policy tenants of {table}" for table in TABLES),
                    *(f"rights of pushq_tenant on {table}" for table in TABLES[:3]),
                ]
            )
            + " and 2 more",
        ),
        ("drop index pushq.jobs_of_tenant", "index jobs_of_tenant"),
        ("alter policy tenants on pushq.jobs to current_user", "policy tenants of jobs"),
        ("alter policy tenants on pushq.jobs using (true)", "policy tenants of jobs"),
        ("alter policy tenants on pushq.jobs with check (tenant_id is null)", "policy tenants of jobs"),
        (f"{drop_both[0]}; {permissive}", "policy tenants of jobs"),
        ("; ".join(drop_both), "policy by_grants of jobs, policy tenants of jobs"),
        (
            "; ".join([*drop_both, disable]),
            "policy by_grants of jobs, policy tenants of jobs, row-level security of jobs",
        ),
    ):
        await connection.execute(lost)
        assert (
            f"keeps tenants apart only by half: {said}; as the owner run `select pushq.separate_tenants()`."
            in await faults(database_url)
        ), lost
        roles = fresh_roles()
        await connection.execute(grants(roles))  # makes the whole truth again
        assert await faults(database_url) == []
        await drop(connection, roles)
    await connection.execute(UNITED)
    assert await faults(database_url) == []


async def test_roles_of_tenants_that_are_not_kept_apart_are_named(
    connection: Connection, database_url: str, app: str
) -> None:
    await is_tenant(connection, app, "acme")
    assert await faults(database_url) == []
    await connection.execute(f"revoke pushq_tenant from {app}")
    await is_tenant(connection, "nobody_of_this_name", "globex")
    (fault,) = await faults(database_url)
    assert f"that policies do not bound: nobody_of_this_name, {app}; each must exist under this name" in fault


async def test_members_of_pushq_tenant_with_rights_on_the_partitions_are_named(
    connection: Connection, database_url: str, app: str
) -> None:
    async with granted(connection) as roles:
        await connection.execute(f"grant {roles.observer} to {app}")
        (fault,) = await faults(database_url)
        assert f"reach the jobs of all tenants by another right: {app}; revoke pushq_worker" in fault
        await connection.execute(f"revoke {roles.observer} from {app}")
    assert await faults(database_url) == []


async def test_an_admin_separates_and_deletes_tenants_and_no_other_role_does(
    connection: Connection, logins: Logins
) -> None:
    for login in ("producer", "worker", "observer", "bystander"):
        stranger = await asyncpg.connect(logins.url_as(login))
        for call in ("separate_tenants()", "delete_tenant('acme')"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await stranger.execute(f"select pushq.{call}")
        await stranger.close()
    admin = await asyncpg.connect(logins.url_as("admin"))
    assert await admin.fetchval("select pushq.separate_tenants()") == "separated"
    await admin.execute("insert into pushq.tenant_roles values ('some_role', 'acme'); delete from pushq.tenant_roles")
    assert await admin.fetchval("select pushq.delete_tenant('acme')") == 0
    await admin.close()
    await connection.execute(UNITED)


async def test_an_owner_that_may_not_make_roles_is_told_what_an_administrator_must_run(connection: Connection) -> None:
    """Without the role, and nothing is half done."""
    async with a_role(connection) as owner:
        change = connection.transaction()
        await change.start()
        await connection.execute(
            f"alter role pushq_tenant rename to pushq_tenant_of_before_{owner}"
            if await connection.fetchval("select to_regrole('pushq_tenant') is not null")
            else "select 1"
        )
        await connection.execute(
            f"grant usage, create on schema pushq to {owner}; alter table pushq.jobs owner to {owner};"
            f"alter table pushq.tenant_roles owner to {owner}; alter function pushq.separate_tenants() owner to {owner}"
        )
        with pytest.raises(
            asyncpg.InsufficientPrivilegeError,
            match=f"an administrator must run `create role pushq_tenant nologin` first, which {owner} may not",
        ):
            await connection.execute("select pushq.separate_tenants()")
        await change.rollback()


async def test_an_owner_that_is_no_superuser_separates_and_unites_tenants(
    empty_database_url: str, connection: Connection
) -> None:
    """And no tenant keeps a right that no policy bounds any more."""
    await connection.execute("select pushq.separate_tenants()")  # makes the role
    async with a_role(connection) as owner, a_role(connection, "pushq_tenant") as app:
        admin = await asyncpg.connect(empty_database_url)
        name = await admin.fetchval("select quote_ident(current_database())")
        await admin.execute(f"grant create on database {name} to {owner}")
        await migrate(url_as(empty_database_url, owner))
        async with session(empty_database_url, owner) as session_:
            assert await session_.fetchval("select pushq.separate_tenants()") == "separated"
            await submit(session_, "acme")
            await admin.execute(f"grant pushq_tenant to {owner}")  # as where an app's owner may take its app's roles
            assert await faults(empty_database_url) == []
            async with session(empty_database_url, app, "acme") as acme:
                assert await seen(acme) == {"acme"}
                assert await session_.fetchval("select pushq.unite_tenants()") == "united"
                assert await session_.fetchval("select pushq.unite_tenants()") == "not separated"
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await seen(acme)
        assert await faults(empty_database_url) == []
        await admin.execute(f"drop schema pushq cascade; drop owned by {owner}")
        await admin.close()
    await connection.execute(UNITED)


async def test_a_policy_of_one_s_own_that_would_hide_nothing_any_more_is_named(connection: Connection) -> None:
    await connection.execute(
        "create policy mine on pushq.jobs using (tenant_id = 'acme');"
        "create policy bounds on pushq.jobs as restrictive using (tenant_id = 'acme')"
    )
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=r"has policies of your own: mine\n"):
        await connection.execute("select pushq.separate_tenants()")
    await connection.execute("drop policy mine on pushq.jobs")
    assert await connection.fetchval("select pushq.separate_tenants()") == "separated"
    await connection.execute(f"drop policy bounds on pushq.jobs; {UNITED}")


async def test_many_who_separate_at_once_take_turns_beside_inserts(connection: Connection, database_url: str) -> None:
    async def separate() -> str:
        async with another(database_url) as one:
            return str(await one.fetchval("select pushq.separate_tenants()"))

    async def insert_some() -> None:
        async with another(database_url) as one:
            for _ in range(100):
                await insert(one, "nobody knows it", tenant_id="acme")

    did = await asyncio.gather(*(separate() for _ in range(4)), insert_some(), insert_some())
    assert sorted(filter(None, did)) == ["already separated"] * 3 + ["separated"]
    assert await connection.fetchval("select count(*) from pushq.jobs") == 200
    await connection.execute(UNITED)


async def test_an_index_whose_building_failed_is_built_anew(connection: Connection, database_url: str) -> None:
    await connection.execute(
        "create index jobs_unfinished_of_tenant on pushq.jobs_unfinished (tenant_id, enqueued_at) "
        "where tenant_id is not null;"
        "update pg_index set indisvalid = false where indexrelid = 'pushq.jobs_unfinished_of_tenant'::regclass"
    )
    await connection.execute("select pushq.separate_tenants()")
    assert await faults(database_url) == []
    await connection.execute(UNITED)


# Deleting -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("separated")
async def test_a_tenant_is_deleted_in_steps_running_jobs_and_finished_ones_included(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url) as supervisor:
        await finished(connection, await submit(connection, "acme"))
        await insert(connection, "sleep", 2, payload={"seconds": 60}, tenant_id="acme")
        await has_count(connection, 2, "status = 'running'")
        await insert(connection, "nobody knows it", 20, tenant_id="acme")
        kept = await insert(connection, "nobody knows it", 3, tenant_id="globex")
        steps = [await connection.fetchval("select pushq.delete_tenant('acme', 10)") for _ in range(4)]
        await finished(connection, *await insert(connection, "echo"))
        assert supervisor.stop() == 0
        assert "Traceback" not in supervisor.said

    assert steps == [10, 10, 3, 0]
    left = await connection.fetch("select id from pushq.jobs where tenant_id is not null")
    assert {row["id"] for row in left} == set(kept)


async def test_a_job_that_is_retried_while_its_tenant_is_deleted_is_deleted(
    connection: Connection, database_url: str
) -> None:
    """The finished row is locked when its turn comes, and has gone back to the partition that was looked at before."""
    (job,) = await insert(connection, "nobody knows it", tenant_id="acme")
    await connection.execute("select pushq.cancel($1)", job)
    async with another(database_url) as hand, another(database_url) as admin:
        await hand.execute(f"begin; select pushq.retry('{job}')")
        deleting = asyncio.create_task(admin.fetchval("select pushq.delete_tenant('acme')"))
        await eventually(lambda: connection.fetchval(SOMEBODY_WAITS))
        await hand.execute("commit")
        assert await deleting == 1
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0


@pytest.mark.parametrize("arguments", ["null", "''", "'acme', 0", "'acme', -1", "'acme', null"])
async def test_who_names_no_tenant_or_no_number_deletes_nothing(connection: Connection, arguments: str) -> None:
    await submit(connection, None)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="name the tenant, and at least one job a step"):
        await connection.execute(f"select pushq.delete_tenant({arguments})")


async def test_two_who_delete_the_same_tenant_share_the_work(connection: Connection, database_url: str) -> None:
    await insert(connection, "nobody knows it", 400, tenant_id="acme")

    async def delete() -> int:
        admin = await asyncpg.connect(database_url)
        deleted = 0
        while step := await admin.fetchval("select pushq.delete_tenant('acme', 7)"):
            deleted += step
        await admin.close()
        return deleted

    assert sum(await asyncio.gather(*(delete() for _ in range(3)))) == 400


# Changes ------------------------------------------------------------------------------------------------------------

CHANGES = ("cancel($1)", "retry($1)", "reprioritize($1, 7)", "reschedule($1, '2100-01-01')")


@pytest.mark.parametrize("change", CHANGES)
async def test_a_tenant_changes_its_own_jobs_and_learns_nothing_of_another_s(
    connection: Connection, database_url: str, app: str, change: str
) -> None:
    async with (
        session(database_url, app, "acme") as acme,
        session(database_url, app, "globex") as globex,
        session(database_url, app) as nobody,
    ):
        before = await submit(acme, "acme")
        for stranger, job in ((globex, before), (nobody, before), (acme, uuid4())):
            assert await stranger.fetchval(f"select pushq.{change}", job) == "unknown"
        unchanged = "select row(status, priority, run_at < '2099-01-01', attempt) from pushq.jobs where id = $1"
        assert await connection.fetchval(unchanged, before) == ("queued", 0, True, 0)
        did = await acme.fetchval(f"select pushq.{change}", before)
        assert did in ("cancelled", "queued", "reprioritized", "rescheduled")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await acme.execute(f"select pushq.change('{before}', 'queued', 'cancelled')")


async def test_a_tenant_waits_for_its_own_jobs_and_hears_nothing_of_another_s(
    connection: Connection, database_url: str, app: str
) -> None:
    heard = asyncio.Queue[str]()
    async with (
        session(database_url, app, "acme") as acme,
        session(database_url, app, "globex") as globex,
        session(database_url, app) as nobody,
    ):
        job = await submit(acme, "acme", waiters=["pushq_acme"])
        for stranger in (globex, nobody):
            await stranger.add_listener("pushq_globex", lambda *told: heard.put_nowait(told[3]))
            assert not await stranger.fetchval("select pushq.watch($1, 'pushq_globex')", job)
            await stranger.execute("select pushq.unwatch($1, 'pushq_acme')", job)
        await acme.add_listener("pushq_acme", lambda *told: heard.put_nowait(told[3]))
        assert await acme.fetchval("select pushq.watch($1, 'pushq_acme')", job)
        assert await connection.fetchval("select waiters from pushq.jobs where id = $1", job) == ["pushq_acme"]
        await connection.execute("select pushq.cancel($1)", job)
        assert await asyncio.wait_for(heard.get(), 5) == f"{job} cancelled"
        assert heard.empty()
        assert not await acme.fetchval("select pushq.watch($1, 'pushq_acme')", uuid4())


async def test_of_jobs_with_one_id_a_tenant_changes_its_own(
    connection: Connection, database_url: str, app: str
) -> None:
    """Whose id was taken by one tenant after another: finished jobs may have the same."""
    async with session(database_url, app, "acme") as acme, session(database_url, app, "globex") as globex:
        shared = await submit(acme, "acme")
        assert await acme.fetchval("select pushq.cancel($1)", shared) == "cancelled"
        await submit(globex, "globex", id=shared)
        assert await acme.fetchval("select pushq.cancel($1)", shared) == "already cancelled"
        assert await acme.fetchval("select pushq.retry($1)", shared) == "id is taken"
        assert await globex.fetchval("select pushq.cancel($1)", shared) == "cancelled"
        assert await acme.fetchval("select pushq.retry($1)", shared) == "queued"  # its own, which ended before
    rows = await connection.fetch("select tenant_id, status from pushq.jobs where id = $1", shared)
    assert {(row["tenant_id"], row["status"]) for row in rows} == {("acme", "queued"), ("globex", "cancelled")}


async def test_a_job_that_takes_the_id_of_one_that_is_being_cancelled_lives(
    connection: Connection, database_url: str, app: str
) -> None:
    """While evil's call waits for the lock of its own row, that row ends and another's of the same id comes."""
    async with session(database_url, app, "evil") as evil, another(database_url) as pool:
        [taken] = await insert(evil, "echo", tenant_id="evil")
        await pool.execute(f"begin; select from pushq.jobs_unfinished where id = '{taken}' for update")
        cancelling = asyncio.create_task(evil.fetchval("select pushq.cancel($1)", taken))
        await eventually(lambda: connection.fetchval(SOMEBODY_WAITS))
        await pool.execute(f"delete from pushq.jobs_unfinished where id = '{taken}'")
        await insert(pool, "echo", id=taken, tenant_id="acme")
        await pool.execute("commit")

        assert await cancelling == "unknown"
    assert await connection.fetchval("select status from pushq.jobs where id = $1", taken) == "queued"
