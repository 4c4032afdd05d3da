"""docs/how-to/tenants.md, as it is written: a tenant sees its own jobs alone, and pushq runs those of all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from tests.support.commands import invoke
from tests.support.jobs import Connection, finished, insert
from tests.support.roles import GROUPS, Logins
from tests.support.supervisors import ROOT, pushq, supervising
from tests.support.waiting import eventually

SOMEBODY_WAITS = (
    "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
)
REFUSED = "violates row-level security policy"


def blocks(logins: Logins) -> list[str]:
    """The document's SQL, for this test's own roles."""
    text = (ROOT / "docs" / "how-to" / "tenants.md").read_text()
    for group in GROUPS:
        text = text.replace(f"pushq_{group}", logins.group(group))
    return re.findall(r"```sql\n(.*?)```", text, re.DOTALL)


@pytest.fixture(autouse=True)
async def policies(connection: Connection, logins: Logins) -> AsyncIterator[None]:
    policies, _, function = blocks(logins)
    await connection.execute(policies)
    await connection.execute(function)
    yield
    await connection.execute("drop policy tenants on pushq.jobs; drop policy workers on pushq.jobs")


@asynccontextmanager
async def tenant(logins: Logins, name: str | None) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(logins.url_as("producer"))
    if name is not None:
        await connection.execute("select set_config('app.tenant', $1, false)", name)
    yield connection
    await connection.close()


async def submit(connection: Connection, owner: str | None) -> UUID:
    (job,) = await insert(connection, "echo", payload={"of": owner}, tenant_id=owner, unique_key="one")
    return job


async def test_the_application_s_transaction_does_as_the_document_says(logins: Logins) -> None:
    _, transaction, _ = blocks(logins)
    async with tenant(logins, None) as connection:
        await connection.execute(transaction)


async def test_a_tenant_inserts_for_itself_alone(connection: Connection, logins: Logins) -> None:
    async with tenant(logins, "acme") as acme, tenant(logins, None) as nobody:
        await submit(acme, "acme")
        for session, owner in ((acme, "globex"), (acme, None), (nobody, "acme"), (nobody, None)):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=REFUSED):
                await submit(session, owner)

    assert [row["tenant_id"] for row in await connection.fetch("select tenant_id from pushq.jobs")] == ["acme"]


async def test_supervisors_run_everybody_s_jobs_and_each_tenant_sees_and_cancels_its_own(
    connection: Connection, logins: Logins
) -> None:
    async with tenant(logins, "acme") as acme, tenant(logins, "globex") as globex, tenant(logins, None) as nobody:
        jobs = {await submit(acme, "acme"): acme, await submit(globex, "globex"): globex}  # with equal keys
        with supervising(logins.url_as("worker")):
            rows = await finished(connection, *jobs)
        assert {row["status"] for row in rows} == {"succeeded"}
        for job, owner in jobs.items():
            assert [row["id"] for row in await owner.fetch("select id, status, result from pushq.jobs")] == [job]
        assert await nobody.fetchval("select count(*) from (select id from pushq.jobs) as seen") == 0

        later = await submit(acme, "acme")
        assert await globex.fetchval("select app.cancel($1)", later) == "unknown"
        assert await nobody.fetchval("select app.cancel($1)", later) == "unknown"
        assert await acme.fetchval("select app.cancel($1)", later) == "cancelled"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await globex.fetch("select id from pushq.jobs_unfinished")


async def test_a_tenant_s_cancel_never_reaches_another_s_job_of_the_same_id(logins: Logins) -> None:
    """Who is told by an id must ask whose it is: of the row that is to be cancelled, and of no other."""
    async with tenant(logins, "acme") as acme, tenant(logins, "evil") as evil:
        [taken] = await insert(evil, "echo", tenant_id="evil")
        assert await evil.fetchval("select app.cancel($1)", taken) == "cancelled"
        await insert(acme, "echo", id=taken, tenant_id="acme")

        assert await evil.fetchval("select app.cancel($1)", taken) == "already cancelled"
        assert await acme.fetchval("select status from pushq.jobs where id = $1", taken) == "queued"


async def test_a_job_that_takes_the_id_of_one_that_is_being_cancelled_lives(
    connection: Connection, database_url: str, logins: Logins
) -> None:
    """While evil's call waits for the lock of its own row, that row ends and another's of the same id comes."""
    pool = await asyncpg.connect(database_url)
    async with tenant(logins, "evil") as evil:
        [taken] = await insert(evil, "echo", tenant_id="evil")
        await pool.execute(f"begin; select from pushq.jobs_unfinished where id = '{taken}' for update")
        cancelling = asyncio.create_task(evil.fetchval("select app.cancel($1)", taken))
        await eventually(lambda: connection.fetchval(SOMEBODY_WAITS))
        await pool.execute(f"delete from pushq.jobs_unfinished where id = '{taken}'")
        await insert(pool, "echo", id=taken, tenant_id="acme")
        await pool.execute("commit")

        assert await cancelling == "unknown"
    assert await connection.fetchval("select status from pushq.jobs where id = $1", taken) == "queued"
    await pool.close()


def test_observers_see_everybody_s_jobs(database_url: str, logins: Logins) -> None:
    assert invoke("enqueue", "echo", url=database_url).exit_code == 0
    assert "echo" in invoke("jobs", url=logins.url_as("observer")).stdout


@pytest.mark.parametrize(("call", "where"), [("cancel", "status = 'queued'"), ("retry", "status = 'succeeded'")])
async def test_who_may_see_a_job_and_not_change_it_is_told_so(
    connection: Connection, logins: Logins, call: str, where: str
) -> None:
    """And does not try for ever."""
    with supervising(logins.url_as("worker")):
        await finished(connection, *await insert(connection, "echo"))
    await insert(connection, "echo")
    job = await connection.fetchval(f"select id from pushq.jobs where {where}")
    await connection.execute(
        f"""
        alter table pushq.jobs_unfinished enable row level security;
        create policy readers on pushq.jobs_unfinished for select using (true);
        drop policy workers on pushq.jobs;
        create policy workers on pushq.jobs for select to {logins.group("worker")} using (true);
        """
    )
    ended = pushq("jobs", call, str(job), url=logins.url_as("worker"))

    assert ended.returncode == 1
    assert f"job {job} can be seen and not changed by" in ended.stderr
    assert "Traceback" not in ended.stderr
