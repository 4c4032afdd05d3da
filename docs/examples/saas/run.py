"""Shows the SaaS on real processes: `python run.py`.

Without PUSHQ_DATABASE_URL, on a PostgreSQL of its own. Else in that database, which is as before afterwards, except for
pushq's schema and the three roles, which belong to the whole server. A database with jobs in job_queue is left alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import asyncpg

from pushq.errors import PushqError
from pushq.local.death import dying_with_us
from pushq.local.interrupts import Interrupts
from pushq.local.server import EmbeddedServer

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

HERE = Path(__file__).resolve().parent
# A login named pushq has the schema pushq first on its path, and would find pushq.tenants for `tenants`.
PATH = """
select set_config('search_path', string_agg(quote_ident(name), ', '), false)
from unnest(current_schemas(false)) as name
where name <> 'pushq'
"""
OLD_WORKERS = 3

# The app's statements, as they were before.
ADD = "INSERT INTO job_queue (tenant_id, type, payload) VALUES ($1, $2, $3) RETURNING id"
CLAIM = """
UPDATE job_queue SET status='processing', worker_id='%s'
WHERE id = (
  SELECT id FROM job_queue WHERE status='pending' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *
"""
DONE = "UPDATE job_queue SET status='completed', result=$2, completed_at=NOW() WHERE id=$1"


def main() -> None:
    if sys.argv[1:2] == ["old-worker"]:
        asyncio.run(work(os.environ["PUSHQ_DATABASE_URL"], sys.argv[2]))
        return
    try:
        with Interrupts() as interrupts, ExitStack() as running:
            url = os.environ.get("PUSHQ_DATABASE_URL")
            if not url:
                say("starting a PostgreSQL")
                url = running.enter_context(EmbeddedServer()).url()
            with interrupts.allowed():
                asyncio.run(show(url))
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        sys.exit(130)
    except PushqError as error:
        sys.exit(str(error))


async def work(url: str, name: str) -> None:
    """An old worker, which knows nothing of pushq: it polls the queue by the old statements."""
    connection = await asyncpg.connect(url)
    await connection.execute("set role service_role")
    while True:
        if job := await connection.fetchrow(CLAIM.replace("%s", name)):
            await asyncio.sleep(0.02)
            await connection.execute(DONE, job["id"], json.dumps({"by": name}))
        else:
            await asyncio.sleep(0.05)


async def show(url: str) -> None:
    migrated = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pushq", "migrate"), env=environment(url), cwd=HERE, stdout=subprocess.DEVNULL
    )
    if await migrated.wait():
        raise PushqError("`pushq migrate` failed.")
    connection = await asyncpg.connect(url)
    await connection.execute(PATH)
    try:
        await show_upon(connection, url)
    finally:
        await connection.close()


async def show_upon(connection: Connection, url: str) -> None:
    before = await made(connection)
    if before["job_queue"] == "v" and await connection.fetchval("select exists (select from job_queue)"):
        raise PushqError("job_queue has jobs, which the workers of this show would run; name another database.")
    if before["job_queue"] not in ("", "v"):
        raise PushqError("job_queue is a table: README.md says how to move it; name another database for this show.")
    shown = Show(connection)
    try:
        await connection.execute((HERE / "schema.sql").read_text())
        await shown.make_tenants()
        await shown.keep_tenants_apart()
        with supervisor(url):
            with old_workers(url):
                await shown.work_together()
            await shown.retry()
            await shown.delete_a_tenant()
        say("\nAll of this by the app's own statements, upon a view.")
    finally:
        await shown.clean_up(before)


class Show:
    """The app: its users, its admin, its service."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tenants: dict[str, UUID] = {}

    async def make_tenants(self) -> None:
        for name in ("acme", "globex"):
            self._tenants[name] = await self._connection.fetchval(
                "INSERT INTO tenants (name) VALUES ($1) RETURNING id", name
            )

    async def keep_tenants_apart(self) -> None:
        acme, globex = self._tenants.values()
        say("\nTwo tenants, each with a job, by the role authenticated:")
        for name, tenant in self._tenants.items():
            async with self._connection.transaction():
                await self._be("authenticated", tenant)
                await self._add(tenant, "ai_generate", prompt=f"of {name}")
                rows = await self._connection.fetch("SELECT payload FROM job_queue")
                say(f"  {name} sees {', '.join(row['payload'] for row in rows)}")
        try:
            async with self._connection.transaction():
                await self._be("authenticated", acme)
                await self._add(globex, "ai_generate", prompt="of acme")
        except asyncpg.InsufficientPrivilegeError as error:
            say(f"  acme inserts for globex: {error.sqlstate}, {error.args[0]}")
        for role in ("authenticated", "super_admin"):
            async with self._connection.transaction():
                await self._be(role)
                count = await self._connection.fetchval("SELECT count(*) FROM job_queue")
                say(f"  {role}, no tenant set, sees {count} jobs")

    async def work_together(self) -> None:
        async with self._connection.transaction():
            for number in range(60):
                url = f"https://example.com/{number}"
                await self._add(self._tenants["globex"], "video_ingest", url=url, seconds=0.05)
        await self._until(self._all_are_finished)
        rows = await self._connection.fetch("SELECT worker_id, attempts FROM job_queue")
        counts = Counter(row["worker_id"] if row["worker_id"].startswith("old") else "pushq" for row in rows)
        assert {row["attempts"] for row in rows} == {1}
        say(f"\n{len(rows)} jobs by {OLD_WORKERS} old workers, which claim by SKIP LOCKED, and by a pool, each once:")
        say("  " + ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))

    async def retry(self) -> None:
        job = await self._add(self._tenants["acme"], "ai_generate", prompt="hard", failures=1)
        await self._until(self._all_are_finished)
        row = await self._connection.fetchrow("SELECT status, attempts, result FROM job_queue WHERE id = $1", job)
        assert row is not None
        say(f"\nA job that fails once, after its retry: {row['status']}, {row['attempts']} attempts, {row['result']}")

    async def delete_a_tenant(self) -> None:
        globex = self._tenants["globex"]
        job = await self._add(globex, "video_ingest", url="https://example.com/long", seconds=600)

        async def is_running() -> bool:
            status = await self._connection.fetchval("SELECT status FROM job_queue WHERE id = $1", job)
            return bool(status == "processing")

        await self._until(is_running)
        count = "SELECT count(*) FROM job_queue WHERE tenant_id = $1"
        before = await self._connection.fetchval(count, globex)
        await self._connection.execute("DELETE FROM tenants WHERE id = $1", globex)
        after = await self._connection.fetchval(count, globex)
        say(f"\nThe tenant globex is deleted: of its {before} jobs, one of them running, {after} are left.")
        try:
            await self._add(globex, "video_ingest")
        except asyncpg.ForeignKeyViolationError as error:
            say(f"A job for globex: {error.sqlstate}, {error.args[0]}")

    async def clean_up(self, before: dict[str, str]) -> None:
        """Deletes the tenants with their jobs, and what was not there before."""
        if (await made(self._connection))["job_queue"] == "v":
            await self._connection.execute("DELETE FROM tenants WHERE id = any($1)", list(self._tenants.values()))
        if not before["job_queue"]:
            await self._connection.execute((HERE / "back.sql").read_text())
            await self._connection.execute("DROP TABLE IF EXISTS job_queue")
            if not before["tenants"]:
                await self._connection.execute("DROP TABLE IF EXISTS tenants")
            if not before["job_status"]:
                await self._connection.execute("DROP TYPE IF EXISTS job_status")

    async def _be(self, role: str, tenant: UUID | None = None) -> None:
        """For the transaction."""
        await self._connection.execute(f"SET LOCAL ROLE {role}")
        if tenant:
            await self._connection.execute(f"SET LOCAL pushq.tenant_id = '{tenant}'")

    async def _add(self, tenant: UUID, kind: str, **payload: object) -> UUID:
        job: UUID = await self._connection.fetchval(ADD, tenant, kind, json.dumps(payload))
        return job

    async def _all_are_finished(self) -> bool:
        unfinished = "SELECT count(*) FROM job_queue WHERE status IN ('pending', 'processing')"
        return bool(await self._connection.fetchval(unfinished) == 0)

    async def _until(self, look: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + 30
        while not await look():
            if time.monotonic() > deadline:
                raise PushqError("The jobs did not end within half a minute.")
            await asyncio.sleep(0.02)


async def made(connection: Connection) -> dict[str, str]:
    """What there is of the app's objects: r a table, v a view, e a type, or nothing."""
    (row,) = await connection.fetch(
        """
        select
            coalesce((select relkind::text from pg_class where oid = to_regclass('job_queue')), '') as job_queue,
            coalesce((select relkind::text from pg_class where oid = to_regclass('tenants')), '') as tenants,
            coalesce((select typtype::text from pg_type where oid = to_regtype('job_status')), '') as job_status
        """
    )
    return dict(row)


@contextmanager
def supervisor(url: str) -> Iterator[None]:
    flags = ("--queue=job_queue", "--concurrency=4", "--http-port=0", "--shutdown-timeout=2")
    with running([sys.executable, "-m", "pushq", "supervise", "tasks:tasks", *flags], url):
        yield


@contextmanager
def old_workers(url: str) -> Iterator[None]:
    with ExitStack() as stack:
        for number in range(1, OLD_WORKERS + 1):
            stack.enter_context(running([sys.executable, __file__, "old-worker", f"old {number}"], url))
        yield


@contextmanager
def running(command: list[str], url: str) -> Iterator[None]:
    """A process of its own, out of Ctrl-C's reach: this process stops it."""
    process = subprocess.Popen(
        command,
        cwd=HERE,
        env=environment(url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=dying_with_us(signal.SIGTERM),  # noqa: PLW1509 - no thread of ours holds a lock here
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(url: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PUSHQ_")}
    return clean | {"PUSHQ_DATABASE_URL": url}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
