"""Whoever may insert a job may give the job a key, and sees and changes no other by doing so."""

from __future__ import annotations

import asyncpg
import pytest

from pushq.database.migrate import migrate, migrations
from tests.promises.test_keys import WAYS, enqueue
from tests.support.jobs import Connection, row_of
from tests.support.roles import Logins, a_role


async def test_a_producer_may_and_reads_nothing(connection: Connection, logins: Logins) -> None:
    producer = await asyncpg.connect(logins.url_as("producer"))
    for way in WAYS:
        job, inserted = await enqueue(producer, unique_key=f"k {way}", **way)
        assert inserted
        assert await enqueue(producer, unique_key=f"k {way}", payload='{"n": 2}', **way) == (job, False)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await producer.fetch("select * from pushq.unique_windows")
    assert (await row_of(connection, job))["submitted_by"] == logins.name("producer")
    await producer.close()


@pytest.mark.parametrize("login", ["observer", "bystander"])
async def test_who_may_not_insert_may_not(connection: Connection, logins: Logins, login: str) -> None:
    await enqueue(connection, unique_key="k")
    stranger = await asyncpg.connect(logins.url_as(login))
    for way in ({}, *({"unique_key": "k"} | way for way in WAYS)):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await enqueue(stranger, **way)
    await stranger.close()


async def test_who_could_insert_or_sweep_before_the_migration_may_go_on(empty_database_url: str) -> None:
    owner = await asyncpg.connect(empty_database_url)
    for migration in migrations()[:13]:
        await owner.execute(migration.sql)
    async with a_role(owner) as app, a_role(owner) as sweeper:
        await owner.execute(
            f"grant usage on schema pushq to {app}, {sweeper}; grant update on pushq.jobs_unfinished to {sweeper};"
            "grant insert (task, payload, queue, priority, run_at, max_attempts, timeout, unique_key, tenant_id, "
            f"correlation_id, waiters), select (id) on pushq.jobs to {app}"
        )
        await migrate(empty_database_url)
        await owner.execute(f"set role {app}")
        for way in WAYS:
            job, _ = await enqueue(owner, unique_key=f"k {way}", **way)
            assert await enqueue(owner, unique_key=f"k {way}", **way) == (job, False)
        await owner.execute(f"set role {sweeper}")
        assert await owner.fetchval("select pushq.forget_windows()") == 0
        await owner.execute("reset role")
    await owner.close()
