"""A tenant keeps webhooks of its own, is told of its own jobs alone, and reads no secret."""

from __future__ import annotations

import asyncpg
import pytest

from tests.promises.test_deliveries import subscribe, told, types
from tests.security.test_tenants import REFUSED
from tests.support.jobs import Connection
from tests.support.roles import Logins, a_role, session

SECRET = "whsec_" + "s" * 32
MINE = "insert into pushq.webhooks (tenant_id, url, statuses, secrets) values ($1, 'https://example.com', $2, $3)"
SUBMIT = "insert into pushq.jobs (task, tenant_id, webhook_url) values ('any', 'acme', 'https://example.com/mine')"


async def test_a_tenant_sees_and_changes_its_own_webhooks_alone(
    connection: Connection,
    database_url: str,
    app: str,
) -> None:
    await subscribe(connection, "queued", tenant_id="globex", secrets=[SECRET])
    await subscribe(connection, "queued", secrets=[SECRET])
    async with session(database_url, app, "acme") as acme:
        await acme.execute(MINE, "acme", ["queued", "cancelled"], [SECRET])
        assert await acme.fetchval("select array_agg(tenant_id) from pushq.webhooks") == ["acme"]
        for change in ("update pushq.webhooks set paused_at = now()", "delete from pushq.webhooks"):
            assert (await acme.execute(change)).endswith(" 1")
        for tenant in ("globex", None):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=REFUSED):
                await acme.execute(MINE, tenant, ["queued"], [])
        for forbidden in (
            "select secrets from pushq.webhooks",
            "table pushq.webhooks",
            "update pushq.webhooks set secrets = secrets",
            "update pushq.webhooks set tenant_id = 'globex'",
            "truncate pushq.webhooks",
            "table pushq.noted_queues",
            "select pushq.webhooks_of('default', 'any', 'globex')",
            "select pushq.deliver_to_urls('{}')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await acme.execute(forbidden)
    assert await connection.fetchval("select count(*) from pushq.webhooks where paused_at is null") == 2


async def test_a_tenant_is_told_of_its_own_jobs_alone(connection: Connection, database_url: str, app: str) -> None:
    theirs = await subscribe(connection, "queued", "cancelled", tenant_id="globex")
    everybody_s = await subscribe(connection, "queued", "cancelled")
    async with session(database_url, app, "acme") as acme, session(database_url, app, "globex") as globex:
        await acme.execute(MINE, "acme", ["queued", "cancelled"], [])
        job = await acme.fetchval(SUBMIT + " returning id")
        await globex.execute("select pushq.note_insert($1)", job)
        await acme.execute("select pushq.note_insert($1)", job)  # nor twice
        await acme.execute("select pushq.cancel($1)", job)
        # of its own webhook, and of the job's URL
        assert await acme.fetchval("select count(*) from pushq.jobs where queue = 'pushq.webhooks'") == 3
        assert await globex.fetchval("select count(*) from pushq.jobs where queue = 'pushq.webhooks'") == 0

    assert await types(connection, theirs) == []
    assert await types(connection, everybody_s) == ["queued", "cancelled"]
    assert len(await told(connection)) == 5


async def test_a_deleted_tenant_leaves_no_webhook(connection: Connection) -> None:
    await subscribe(connection, "queued", tenant_id="acme")
    kept = await subscribe(connection, "queued", tenant_id="globex")
    await connection.execute(SUBMIT)
    while await connection.fetchval("select pushq.delete_tenant('acme')"):
        pass
    assert await connection.fetchval("select array_agg(id) from pushq.webhooks") == [kept]
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0


@pytest.mark.parametrize("login", ["producer", "observer"])
async def test_producers_and_observers_read_no_secret(connection: Connection, logins: Logins, login: str) -> None:
    await subscribe(connection, "queued", secrets=[SECRET])
    stranger = await asyncpg.connect(logins.url_as(login))
    for forbidden in ("select secrets from pushq.webhooks", "insert into pushq.webhooks (url) values ('http://a')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stranger.execute(forbidden)
    if login == "producer":
        await stranger.execute("insert into pushq.jobs (task) values ('any')")
        assert await types(connection) == ["queued"]
    await stranger.close()


async def test_who_may_insert_by_a_right_of_its_own_may_insert_beside_webhooks(
    connection: Connection, database_url: str
) -> None:
    """A webhook of somebody else's is no reason to refuse a job."""
    await subscribe(connection, "queued")
    async with a_role(connection) as login:
        await connection.execute(f"grant usage on schema pushq to {login}; grant insert on pushq.jobs to {login}")
        async with session(database_url, login) as stranger:
            await stranger.execute("insert into pushq.jobs (task) values ('any')")
    assert await types(connection) == ["queued"]


FORGED = (
    "'pushq.webhook', jsonb_build_object('webhook', $1::uuid, 'event', 1, 'type', 'job.succeeded', 'data', '{}'::jsonb)"
)
STANDING = "0::smallint, now(), null, null, 'k', $2, null, true, null, null, null, null"


@pytest.mark.parametrize("login", ["producer", "tenant"])
@pytest.mark.parametrize(
    "way",
    [
        f"insert into pushq.jobs (task, payload, queue, tenant_id) select {FORGED}, 'pushq.webhooks', $2",
        f"insert into pushq.jobs (task, payload, unique_key, tenant_id) select {FORGED}, 'pushq.webhooks x', $2",
        f"select pushq.enqueue({FORGED}, 'pushq.webhooks', tenant_id => $2)",
        f"select pushq.enqueue({FORGED}, 'pushq.webhooks', tenant_id => $2, unique_key => 'k', standing => 'replace')",
        f"select pushq.find_standing({FORGED}, 'pushq.webhooks', {STANDING})",
    ],
    ids=["insert", "key", "enqueue", "replace", "standing"],
)
async def test_nobody_forges_a_delivery_which_pushq_would_sign(
    connection: Connection, database_url: str, logins: Logins, app: str, login: str, way: str
) -> None:
    webhook = await subscribe(connection, "queued", secrets=[SECRET])
    await connection.execute("insert into pushq.jobs (task, unique_key, tenant_id) values ('any', 'k', 'acme')")
    name = logins.name("producer") if login == "producer" else app
    async with session(database_url, name, "acme") as stranger:
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await stranger.execute(way, webhook, "acme")
    assert refusal.value.constraint_name == "jobs_queue_pushq_webhooks_is_for_pushq"
    assert [one["data"]["tenant_id"] for one in await told(connection)] == ["acme"]
