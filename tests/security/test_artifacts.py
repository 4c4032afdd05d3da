"""A tenant reads the artifacts of its own jobs alone; a worker writes them with the job's token; nobody else does."""

from __future__ import annotations

import asyncpg
import pytest

from pushq import Queue
from pushq.database.migrate import migrate, migrations
from pushq.errors import ArtifactUnknown, DatabaseRefused
from tests.promises.test_artifacts import begin, left, put, taken
from tests.support.jobs import Connection
from tests.support.roles import Logins, a_role, session, url_as

COLUMNS = "id, job_id, tenant_id, attempt, name, content_type, size, sha256, pieces, created_at"
PIECE = "select pushq.artifact_piece($1, 0)"
WHOLE = "select pushq.read_artifact($1, 'a')"


async def test_a_tenant_reads_the_artifacts_of_its_own_jobs_alone(
    connection: Connection,
    database_url: str,
    app: str,
) -> None:
    held = {owner: await taken(connection, tenant_id=owner) for owner in ("acme", "globex", None)}
    artifacts = {owner: await put(connection, held[owner], "a", f"of {owner}".encode()) for owner in held}
    async with session(database_url, app, "acme") as acme, session(database_url, app) as nobody:
        found = await acme.fetch(f"select {COLUMNS} from pushq.artifacts")
        assert [row["job_id"] for row in found] == [held["acme"][0]]
        assert await nobody.fetch(f"select {COLUMNS} from pushq.artifacts") == []
        for tenant, own in ((acme, "acme"), (nobody, "none")):
            for owner in held:
                expected = f"of {owner}".encode() if owner == own else None
                assert await tenant.fetchval(PIECE, artifacts[owner]) == expected
                assert await tenant.fetchval(WHOLE, held[owner][0]) == expected
        draft = await begin(connection, held["acme"], "b", pieces=1)
        assert await acme.fetchval(PIECE, draft) is None
        for forbidden in (
            "select token from pushq.artifacts", "select * from pushq.artifacts", "table pushq.artifact_drafts",
            "table pushq.artifact_pieces", "table pushq.artifact_bytes", "delete from pushq.artifacts",
            "update pushq.artifacts set name = 'x'", "select pushq.forget_drafts()", "select pushq.forget_artifacts()",
        ):  # fmt: skip
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await acme.execute(forbidden)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await put(acme, held["acme"], "c", b"x")


async def test_a_tenant_reads_by_python_and_learns_nothing_of_another_s(
    separated: Connection,
    database_url: str,
) -> None:
    own, other = [await taken(separated, tenant_id=owner) for owner in ("acme", "globex")]
    for held in (own, other):
        await put(separated, held, "a", b"x" * 2_000_000)
    async with a_role(separated, "pushq_tenant") as role:
        await separated.execute("insert into pushq.tenant_roles values ($1, 'acme')", role)
        url = url_as(database_url, role)
        assert await left(url, own[0]) == {"a": b"x" * 2_000_000}
        assert await left(url, other[0]) == {}
        with pytest.raises(ArtifactUnknown, match="has no artifact 'a' that this login may read"):
            await anext(Queue().artifact(other[0], "a", url=url))
        # The control: without the policy, the list tells, and still no bytes.
        await separated.execute("drop policy tenants on pushq.artifacts")
        assert [one.name for one in await Queue().artifacts(other[0], url=url)] == ["a"]
        with pytest.raises(ArtifactUnknown, match="replaced or deleted"):
            await left(url, other[0])
        await separated.execute("select pushq.separate_tenants()")
        await separated.execute("delete from pushq.tenant_roles")


async def test_the_artifacts_of_a_deleted_tenant_are_deleted_with_their_bytes(connection: Connection) -> None:
    for owner in ("acme", "globex"):
        for _ in range(3):
            held = await taken(connection, tenant_id=owner)
            for name in "ab":
                await put(connection, held, name, b"x" * 10)
    steps = [await connection.fetchval("select pushq.delete_tenant('acme', 4)") for _ in range(5)]
    assert steps == [3, 4, 2, 0, 0]
    assert [row["tenant_id"] for row in await connection.fetch("select distinct tenant_id from pushq.artifacts")] == [
        "globex"
    ]
    assert await connection.fetchval("select count(*) from pushq.artifact_pieces") == 6


async def test_nothing_stays_of_a_deleted_tenant_s_drafts_and_of_what_was_counted(connection: Connection) -> None:
    for owner in ("acme", "globex"):
        held = await taken(connection, tenant_id=owner)
        await put(connection, held, "a", b"x" * 10)
        for name in "bcd":
            await begin(connection, held, name, pieces=2)
    steps = [await connection.fetchval("select pushq.delete_tenant('acme', 2)") for _ in range(5)]
    assert steps == [1, 2, 1, 1, 0]
    for table in ("artifacts", "artifact_drafts", "artifact_bytes"):
        owners = await connection.fetch(f"select distinct tenant_id from pushq.{table}")
        assert [row["tenant_id"] for row in owners] == ["globex"]
    assert await connection.fetchval("select count(*) from pushq.artifact_pieces") == 7


async def test_each_role_may_what_the_page_says(connection: Connection, logins: Logins) -> None:
    held = await taken(connection)
    await put(connection, held, "a", b"abc")
    worker = await asyncpg.connect(logins.url_as("worker"))
    assert await put(worker, held, "by a worker", b"x")
    assert await put(worker, (held[0], held[0]), "without the token", b"x") is None
    await worker.close()
    for login in ("worker", "observer", "admin"):
        assert (await left(logins.url_as(login), held[0]))["a"] == b"abc"
    for login in ("producer", "bystander"):
        with pytest.raises(DatabaseRefused):
            await left(logins.url_as(login), held[0])
    for login in ("producer", "observer", "bystander"):
        stranger = await asyncpg.connect(logins.url_as(login))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await put(stranger, held, "c", b"x")
        await stranger.close()


async def test_who_could_run_jobs_before_the_migration_may_write_artifacts(empty_database_url: str) -> None:
    owner = await asyncpg.connect(empty_database_url)
    for migration in migrations()[:19]:
        await owner.execute(migration.sql)
    async with a_role(owner) as worker:
        await owner.execute(
            f"grant usage on schema pushq to {worker}; grant update on pushq.jobs_unfinished to {worker}"
        )
        await migrate(empty_database_url)
        held = await taken(owner)
        await owner.execute(f"set role {worker}")
        assert await put(owner, held, "a", b"abc")
        assert await owner.fetchval(WHOLE, held[0]) == b"abc"
        assert await owner.fetchval("select forgotten from pushq.forget_artifacts()") == 0
        assert await owner.fetch("select * from pushq.retire_artifact_days()") == []
        await owner.execute("reset role")
    await owner.close()
