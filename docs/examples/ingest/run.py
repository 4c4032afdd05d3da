"""Shows ingest on real processes: `python run.py`, or `python run.py --concurrency 1` for one job at a time.

Without PUSHQ_DATABASE_URL, on a PostgreSQL of its own. Else in that database, which gets pushq's schema and the view,
and keeps no row of the show.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
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
QUICK = {"HEARTBEAT_INTERVAL": "0.5", "LEASE": "1.5", "SWEEP_INTERVAL": "0.5", "SHUTDOWN_TIMEOUT": "2"}
"""Settings for a show: a killed service's jobs go on within seconds."""

# The app's statements, as they were before.
SUBMIT = "INSERT INTO graphiti_jobs (job_id, job_type, payload, submitted_by) VALUES ($1, $2, $3, $4)"
WATCH = "SELECT status, error, summary, started_at, finished_at FROM graphiti_jobs WHERE job_id = $1"
PICK = """
SELECT job_id, job_type, payload FROM graphiti_jobs
WHERE status = 'queued' ORDER BY enqueued_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
START = "UPDATE graphiti_jobs SET status = 'running', started_at = NOW() WHERE job_id = $1 AND status = 'queued'"
COMMIT = "UPDATE graphiti_jobs SET status = 'committed', finished_at = NOW(), summary = $2 WHERE job_id = $1"
RECOVER = """
SELECT s.id, s.external_job_id, g.status, g.error, g.summary
FROM stage_3_queue s LEFT JOIN graphiti_jobs g ON g.job_id = s.external_job_id
WHERE s.external_job_id IS NOT NULL AND s.completed_at IS NULL AND s.failed_at IS NULL ORDER BY s.id
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Shows ingest on real processes.")
    parser.add_argument("--concurrency", type=int, default=4, help="how many jobs run at a time; 1: one after another")
    concurrency = parser.parse_args().concurrency
    try:
        with Interrupts() as interrupts, ExitStack() as running:
            url = os.environ.get("PUSHQ_DATABASE_URL")
            if not url:
                say("starting a PostgreSQL")
                url = running.enter_context(EmbeddedServer()).url()
            with interrupts.allowed():
                asyncio.run(show(url, concurrency))
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        sys.exit(130)
    except PushqError as error:
        sys.exit(str(error))


async def show(url: str, concurrency: int) -> None:
    migrated = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pushq", "migrate", env=environment(url), cwd=HERE, stdout=subprocess.DEVNULL
    )
    if await migrated.wait():
        raise PushqError("`pushq migrate` failed.")
    connection = await asyncpg.connect(url)
    show = Show(connection)
    try:
        await connection.execute((HERE / "schema.sql").read_text())
        job = await show.submit_at_once()
        with service(url, concurrency) as first:
            await show.wait_for_the_slow(job)
            await show.fail()
            await show.run_many(concurrency)
            await show.work_beside(url)
            job = await show.kill(first)
        with service(url, concurrency):
            await show.recover(job)
        say("\nAll of this by the app's own statements, upon a view.")
    finally:
        await show.clean_up()
        await connection.close()


class Show:
    """The app: submits and watches by its old statements."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._jobs: list[UUID] = []

    async def submit_at_once(self) -> UUID:
        began = time.monotonic()
        slow = await self._submit(seconds=1)
        say(f"\nSubmitted {slow} in {1000 * (time.monotonic() - began):.0f} ms, while no service runs.")
        return slow

    async def wait_for_the_slow(self, job: UUID) -> None:
        await self._reaches(job, "running")
        row = await self._look(job, {"committed", "failed"}, within=0.5)
        say(f"The service has begun. A caller gives up after 0.5 s: the job is {row['status']}, error {row['error']}.")
        row = await self._ended(job)
        say(f"The caller asks again later: {row['status']}, {row['summary']}.")

    async def fail(self) -> None:
        row = await self._ended(await self._submit(fail="no such graph"))
        say(f"Another one is {row['status']}: {row['error']}")

    async def run_many(self, concurrency: int) -> None:
        jobs = [await self._submit(seconds=0.3) for _ in range(4)]
        rows = [await self._ended(job) for job in jobs]
        took = max(row["finished_at"] for row in rows) - min(row["started_at"] for row in rows)
        seconds = took.total_seconds()
        say(f"\nFour jobs of 0.3 s each, --concurrency {concurrency}: {seconds:.1f} s together.")

    async def work_beside(self, url: str) -> None:
        jobs = [await self._submit(seconds=0.1) for _ in range(12)]
        by_old_worker = await old_worker(url)
        rows = [await self._ended(job) for job in jobs]
        assert {row["status"] for row in rows} == {"committed"}
        say(f"Twelve jobs: {len(by_old_worker)} by an old worker, {12 - len(by_old_worker)} by the service, each once.")

    async def kill(self, service: subprocess.Popen[bytes]) -> UUID:
        job = await self._submit(seconds=1)
        await self._connection.execute("INSERT INTO stage_3_queue (body, external_job_id) VALUES ('{}', $1)", job)
        await self._reaches(job, "running")
        os.killpg(service.pid, signal.SIGKILL)
        say(f"\nThe service was killed amid a job. The recovery scan: {await self._scan(job)}.")
        return job

    async def recover(self, job: UUID) -> None:
        await self._ended(job)
        say(f"A new service has done the job. The recovery scan: {await self._scan(job)}.")

    async def clean_up(self) -> None:
        await self._connection.execute("DELETE FROM pushq.jobs WHERE id = any($1)", self._jobs)
        await self._connection.execute("DELETE FROM stage_3_queue WHERE external_job_id = any($1)", self._jobs)

    async def _submit(self, **payload: Any) -> UUID:
        job = uuid4()
        body = json.dumps({"episodes": ["Ada wrote to Charles."]} | payload)
        self._jobs.append(job)
        await self._connection.execute(SUBMIT, job, "single", body, "run.py")
        return job

    async def _ended(self, job: UUID) -> asyncpg.Record:
        return await self._reaches(job, "committed", "failed")

    async def _reaches(self, job: UUID, *statuses: str) -> asyncpg.Record:
        row = await self._look(job, {*statuses}, within=30)
        if row["status"] not in statuses:
            raise PushqError(f"Job {job} is still {row['status']} after 30 s.")
        return row

    async def _look(self, job: UUID, statuses: set[str], within: float) -> asyncpg.Record:
        """The row, as soon as the job has one of the statuses, or the time is over."""
        deadline = time.monotonic() + within
        while True:
            row = await self._connection.fetchrow(WATCH, job)
            assert row
            if row["status"] in statuses or time.monotonic() > deadline:
                return row
            await asyncio.sleep(0.05)

    async def _scan(self, job: UUID) -> str:
        rows = await self._connection.fetch(RECOVER)
        return next(f"{row['status']}, {row['summary']}" for row in rows if row["external_job_id"] == job)


async def old_worker(url: str) -> list[UUID]:
    """A worker as the app had it. Works until nothing is queued."""
    done: list[UUID] = []
    connection = await asyncpg.connect(url, server_settings={"application_name": "old worker"})
    try:
        while True:
            async with connection.transaction():
                picked = await connection.fetchrow(PICK)
                if picked is None:
                    return done
                await connection.execute(START, picked["job_id"])
            await asyncio.sleep(0.1)
            if (
                await connection.execute(COMMIT, picked["job_id"], '{"nodes": 3, "edges": 2, "episodes": 1}')
                == "UPDATE 1"
            ):
                done.append(picked["job_id"])
    finally:
        await connection.close()


@contextmanager
def service(url: str, concurrency: int) -> Iterator[subprocess.Popen[bytes]]:
    """`pushq supervise`, in a session of its own, which Ctrl-C does not reach. Dies with this program."""
    command = [sys.executable, "-m", "pushq", "supervise", "tasks:tasks", "--queue", "ingest", "--http-port", "0"]
    process = subprocess.Popen(
        [*command, "--concurrency", str(concurrency)],
        cwd=HERE,
        env=environment(url),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=dying_with_us(signal.SIGTERM),  # noqa: PLW1509 - no thread of ours holds a lock here
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(url: str) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("PUSHQ_")}
    return others | {f"PUSHQ_{name}": value for name, value in QUICK.items()} | {"PUSHQ_DATABASE_URL": url}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
