"""A tenant keeps schedules of its own, whose jobs are its own, and reaches nobody else's."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from tests.security.test_tenants import REFUSED
from tests.support.jobs import Connection
from tests.support.roles import session
from tests.support.schedules import fall_due, have_slots, keeping, row_of, write

MINE = "insert into pushq.schedules (tenant_id, name, every, task) values ($1, 'report', '1 hour', 'echo')"
FORGED = """
insert into pushq.schedules (tenant_id, name, every, task, queue)
values ('acme', 'forged', '1 hour', 'pushq.webhook', 'pushq.webhooks')
"""


async def test_a_tenant_sees_and_changes_its_own_schedules_alone(
    connection: Connection, database_url: str, app: str
) -> None:
    await write(connection, "report", tenant_id="globex", every=timedelta(hours=1))
    await write(connection, "nightly", every=timedelta(hours=1))
    async with session(database_url, app, "acme") as acme:
        await acme.execute(MINE, "acme")  # a name that another tenant has given too
        assert await acme.fetchval("select array_agg(tenant_id) from pushq.schedules") == ["acme"]
        assert (await acme.execute("update pushq.schedules set cron = '0 1 * * *', every = null")).endswith(" 1")
        for tenant in ("globex", None):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=REFUSED):
                await acme.execute(MINE, tenant)
        for forbidden in (
            "update pushq.schedules set tenant_id = 'globex'",
            "update pushq.schedules set last_at = now()",
            "truncate pushq.schedules",
            "select pushq.find_schedule('report', 'globex')",
            "select pushq.refuse_slot(id, next_at, 'no') from pushq.schedules",
            "table pushq.schedules",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await acme.execute(forbidden)
        assert (await acme.execute("delete from pushq.schedules")).endswith(" 1")
    assert await connection.fetchval("select count(*) from pushq.schedules where paused_at is null") == 2


async def test_a_tenant_runs_pauses_and_resumes_its_own_schedules_alone(
    connection: Connection, database_url: str, app: str
) -> None:
    for tenant in ("globex", None):
        await write(connection, "theirs", tenant_id=tenant, every=timedelta(hours=1))
    await write(connection, "mine", tenant_id="acme", every=timedelta(hours=1))
    async with session(database_url, app, "acme") as acme:
        for given in ("'theirs'", "'theirs', 'globex'", "'mine', 'globex'"):
            assert await acme.fetchval(f"select pushq.run_schedule({given})") is None
            assert await acme.fetchval(f"select pushq.pause_schedule({given})") == "unknown"
        assert await acme.fetchval("select pushq.pause_schedule('mine')") == "paused"
        assert await acme.fetchval("select pushq.resume_schedule('mine', 'acme')") == "resumed"
        job = await acme.fetchval("select pushq.run_schedule('mine')")
        row = await acme.fetchrow("select id, tenant_id, submitted_by from pushq.jobs")
        assert tuple(row or ()) == (job, "acme", app)
    assert await connection.fetchval("select count(*) from pushq.jobs") == 1


async def test_the_jobs_of_a_tenant_s_schedule_are_the_tenant_s(
    connection: Connection, database_url: str, app: str
) -> None:
    async with session(database_url, app, "acme") as acme, session(database_url, app, "globex") as globex:
        await acme.execute(MINE, "acme")
        slot = await fall_due(connection, "report")
        async with keeping(database_url):
            assert await have_slots(connection, "report") == [slot]
        assert await acme.fetchval("select tenant_id from pushq.jobs") == "acme"
        assert await globex.fetchval("select count(*) from pushq.jobs") == 0


async def test_no_schedule_inserts_a_delivery_which_a_supervisor_would_sign(database_url: str, app: str) -> None:
    async with session(database_url, app, "acme") as acme:
        await acme.execute(MINE, "acme")
        for forbidden in (
            "update pushq.schedules set queue = 'pushq.webhooks', task = 'pushq.webhook'",
            FORGED,
        ):
            with pytest.raises(asyncpg.CheckViolationError, match="schedules_queue_pushq_webhooks_is_for_pushq"):
                await acme.execute(forbidden)


async def test_a_deleted_tenant_leaves_no_schedule(connection: Connection) -> None:
    await write(connection, "report", tenant_id="acme")
    await write(connection, "report", tenant_id="globex")
    while await connection.fetchval("select pushq.delete_tenant('acme')"):
        pass
    assert await connection.fetchval("select array_agg(tenant_id) from pushq.schedules") == ["globex"]
    assert (await row_of(connection, "report"))["tenant_id"] == "globex"
