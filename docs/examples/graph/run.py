"""Shows graph on real processes: `python run.py`.

Without PUSHQ_DATABASE_URL, on a PostgreSQL of its own. Else in that database, which is as before afterwards, except for
pushq's schema. A database with jobs in scheduler.graph_jobs is left alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID, uuid4

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
TENANT = "show"
BUILD, OVERLAY = 0, 1
QUEUED, RUNNING, COMPLETED, FAILED, CANCELED = range(5)
WORDS = ("queued", "running", "completed", "failed", "canceled")

# The app's statements, as they were before.
INSERT = """
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, updated_at, correlation_id)
VALUES ($1,$2,$3,0,$4,NOW(),NOW(),$5)
"""
REPLACE = """
UPDATE scheduler.graph_jobs SET status = $4, payload = $5, updated_at = NOW()
WHERE tenant_id = $1 AND id = $2 AND type = $6 AND status = $3
"""
LIST = "SELECT id FROM scheduler.graph_jobs WHERE tenant_id = $1 AND type = $2 ORDER BY created_at DESC LIMIT $3"
EVENT = "INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload) VALUES ($1,$2,$3,$4)"
EVENTS = "SELECT status FROM scheduler.graph_job_events WHERE job_id = $1 ORDER BY created_at, id"


def main() -> None:
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


async def show(url: str) -> None:
    migrated = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pushq", "migrate"), env=environment(url), cwd=HERE, stdout=subprocess.DEVNULL
    )
    if await migrated.wait():
        raise PushqError("`pushq migrate` failed.")
    connection = await asyncpg.connect(url)
    try:
        await show_upon(connection, url)
    finally:
        await connection.close()


async def show_upon(connection: Connection, url: str) -> None:
    before = await connection.fetchval("select relkind from pg_class where oid = to_regclass('scheduler.graph_jobs')")
    has_schema = await connection.fetchval("select to_regnamespace('scheduler') is not null")
    if before not in (None, b"v"):
        raise PushqError("scheduler.graph_jobs is a table: README.md says how to move it; name another database.")
    if before and await connection.fetchval("select exists (select from scheduler.graph_jobs)"):
        raise PushqError("scheduler.graph_jobs has jobs, which this show's service would run; name another database.")
    shown = Show(connection)
    try:
        await connection.execute((HERE / "schema.sql").read_text())
        async with followed(url):
            await shown.insert_and_list()
            await shown.replace_at_once(url)
            with service(url):
                await shown.run()
                await shown.fail()
                await shown.cancel()
        say("\nAll of this by the app's own statements, upon two views.")
    finally:
        await shown.clean_up(was_there=bool(before), has_schema=has_schema)


class Show:
    """The app."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def insert_and_list(self) -> None:
        jobs = [await self._insert(BUILD, graph=f"Ada wrote {what}") for what in ("notes", "letters")]
        listed = [row["id"] for row in await self._connection.fetch(LIST, TENANT, BUILD, 10)]
        assert listed == jobs[::-1]
        say(f"\nTwo jobs, the newest first: {', '.join(map(short, listed))}. No service runs yet.")

    async def replace_at_once(self, url: str) -> None:
        job = await self._connection.fetchval(LIST, TENANT, BUILD, 1)
        await self._append(job, QUEUED)
        async with connected(url, "old worker") as other:
            told = await asyncio.gather(
                replace(self._connection, job, QUEUED, RUNNING, by=1), replace(other, job, QUEUED, RUNNING, by=2)
            )
            say(f"\nTwo old workers replace queued by running at once: {', '.join(str(one).lower() for one in told)}.")
            assert sorted(told) == [False, True]
        await self._append(job, RUNNING)
        assert await replace(self._connection, job, RUNNING, COMPLETED, nodes=3)
        await self._append(job, COMPLETED)
        late = await replace(self._connection, job, COMPLETED, RUNNING)
        statuses = [row["status"] for row in await self._connection.fetch(EVENTS, job)]
        say(f"Completed by running, afterwards: {str(late).lower()}.")
        say(f"Events of pushq and those appended by an old worker: {' '.join(map(str, statuses))}")

    async def run(self) -> None:
        job = await self._insert(OVERLAY, graph="a b c", seconds=0.3)
        await self._reaches(job, COMPLETED)
        say(f"\nThe service has started: {short(job)} is completed, and so is what had waited.")

    async def fail(self) -> None:
        job = await self._insert(BUILD, fail="no such node")
        await self._reaches(job, FAILED)
        event = await self._connection.fetchval(
            "SELECT payload FROM scheduler.graph_job_events WHERE job_id = $1 AND status = $2", job, FAILED
        )
        say(f"\n{short(job)} is failed: {json.loads(event)['error']}")

    async def cancel(self) -> None:
        job = await self._insert(OVERLAY, seconds=600)
        await self._reaches(job, RUNNING)
        assert await replace(self._connection, job, RUNNING, CANCELED, OVERLAY, why="no longer wanted")
        say(f"\n{short(job)}, of ten minutes, is canceled while the service runs it, which stops the handler.")

    async def clean_up(self, *, was_there: bool, has_schema: bool) -> None:
        """Deletes the jobs, and what was not there before."""
        is_view = "select relkind = 'v' from pg_class where oid = to_regclass('scheduler.graph_jobs')"
        if await self._connection.fetchval(is_view):
            await self._connection.execute("DELETE FROM scheduler.graph_jobs WHERE tenant_id = $1", TENANT)
        if not was_there:
            await self._connection.execute((HERE / "back.sql").read_text())
            await self._connection.execute("DROP TABLE IF EXISTS scheduler.graph_job_events, scheduler.graph_jobs")
            if not has_schema:
                await self._connection.execute("DROP SCHEMA IF EXISTS scheduler")

    async def _insert(self, kind: int, **payload: object) -> UUID:
        job = uuid4()
        await self._connection.execute(INSERT, job, TENANT, kind, json.dumps(payload), "run.py")
        return job

    async def _append(self, job: UUID, status: int) -> None:
        await self._connection.execute(EVENT, job, TENANT, status, '{"by": "old worker"}')

    async def _reaches(self, job: UUID, status: int) -> None:
        deadline = time.monotonic() + 30
        while await self._connection.fetchval("SELECT status FROM scheduler.graph_jobs WHERE id = $1", job) != status:
            if time.monotonic() > deadline:
                raise PushqError(f"Job {job} is not {WORDS[status]} after half a minute.")
            await asyncio.sleep(0.02)


async def replace(
    connection: Connection, job: UUID, expected: int, status: int, kind: int = BUILD, **payload: object
) -> bool:
    """TryReplace."""
    given = (TENANT, job, expected, status, json.dumps(payload), kind)
    return await connection.execute(REPLACE, *given) == "UPDATE 1"


@asynccontextmanager
async def followed(url: str) -> AsyncIterator[None]:
    """Tells each event as it comes."""
    async with connected(url, "follower") as connection, asyncio.TaskGroup() as group:
        follower = group.create_task(follow(connection))
        yield
        await asyncio.sleep(0.1)
        follower.cancel()


async def follow(connection: Connection) -> None:
    seen: set[int] = set()
    while True:
        for row in await connection.fetch(
            "SELECT * FROM scheduler.graph_job_events WHERE tenant_id = $1 AND id <> ALL($2) ORDER BY id",
            TENANT,
            list(seen),
        ):
            seen.add(row["id"])
            say(f"    event {row['id']}: {short(row['job_id'])} {WORDS[row['status']]} {row['payload']}")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url, server_settings={"application_name": name})
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def service(url: str) -> Iterator[None]:
    """`pushq supervise`, in a session of its own, which Ctrl-C does not reach. Dies with this program."""
    flags = ("--queue=graph", "--concurrency=4", "--http-port=0", "--shutdown-timeout=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "pushq", "supervise", "tasks:tasks", *flags],
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


def short(job: UUID) -> str:
    return f"job {str(job)[:8]}"


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
