"""Shows model_coordination on real processes: `python run.py`.

Without PUSHQ_DATABASE_URL, on a PostgreSQL of its own. Else in that database, which is as before afterwards, except for
pushq's schema. A database with a table `jobs` in the schema public, or with jobs in the view, is left alone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
from fake_model import FakeModels  # type: ignore[import-not-found]

from pushq.errors import PushqError
from pushq.local.death import dying_with_us
from pushq.local.interrupts import Interrupts
from pushq.local.server import EmbeddedServer

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

HERE = Path(__file__).resolve().parent
MODELS = ["flux", "llama", "qwen", "whisper"]
JOBS = 60
URGENT = "job-urgent"

INSERT = "INSERT INTO jobs (id, payload, priority, required_models) VALUES ($1, $2, $3, $4)"
# What the site asks, as before.
SHOW = """
SELECT id, status, queue_position, blocked_by_job_id, conflict_reason, required_models, queued_at FROM jobs
WHERE status IN ('queued', 'blocked', 'running') ORDER BY queue_position
"""
STATE = "SELECT * FROM job_queue_state"
LOG = """
SELECT event_type, models, blocked_by_job_id, conflict_reason, metadata, created_at FROM job_queue_log
WHERE job_id = $1 ORDER BY created_at, id
"""


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
    # A login named pushq would find pushq.jobs for `jobs`.
    connection = await asyncpg.connect(url, server_settings={"search_path": "public"})
    try:
        await show_upon(connection, url)
    finally:
        await connection.close()


async def show_upon(connection: Connection, url: str) -> None:
    before = await connection.fetchval("select relkind from pg_class where oid = to_regclass('public.jobs')")
    if before not in (None, b"v"):
        raise PushqError("jobs is a table: README.md says how to move it; name another database for this show.")
    if before and await connection.fetchval("select exists (select from jobs)"):
        raise PushqError("jobs has jobs, which this show's supervisors would run; name another database.")
    shown = Show(connection)
    try:
        await connection.execute((HERE / "schema.sql").read_text())
        models = FakeModels()
        async with models.served() as models_url:
            await shown.insert()
            with supervisors(url, models_url) as running:
                await shown.run(running)
            await shown.tell(models)
    finally:
        await shown.clean_up(was_there=bool(before))


class Show:
    """The site."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._has_killed = False

    async def insert(self) -> None:
        dice = random.Random(7)
        for number in range(JOBS):
            needed = dice.sample(MODELS, dice.choice([1, 1, 1, 2]))
            seconds = dice.choice([0.05, 0.1, 0.2])
            given = (f"job-{number}", json.dumps({"seconds": seconds}), dice.randint(0, 2), json.dumps(needed))
            await self._connection.execute(INSERT, *given)
        say(f"{JOBS} jobs wait for {len(MODELS)} models. No supervisor runs yet.")
        await self._show_queue()

    async def run(self, running: list[subprocess.Popen[bytes]]) -> None:
        say("\nTwo supervisors with four workers each:")
        deadline = time.monotonic() + 90
        for look in itertools.count():
            waiting = await self._connection.fetchval(
                "SELECT count(*) FROM jobs WHERE status IN ('queued', 'blocked', 'running')"
            )
            if not waiting:
                break
            if look % 40 == 15:
                await self._show_queue()
            if waiting < JOBS * 2 / 3 and not self._has_killed:
                await self._kill(running)
            if time.monotonic() > deadline:
                raise PushqError(f"After a minute and a half, {waiting} jobs have not ended.")
            await asyncio.sleep(0.05)

    async def _kill(self, running: list[subprocess.Popen[bytes]]) -> None:
        """Kills the pool of an urgent job that takes a while, and all others with it."""
        await self._connection.execute(INSERT, URGENT, '{"seconds": 1}', -1, '["whisper"]')
        while await self._connection.fetchval("SELECT status FROM jobs WHERE id = $1", URGENT) != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self._show_queue()
        say("\nAll pools are killed by SIGKILL, in the middle of their jobs:")
        for pool in itertools.chain(*map(pools_of, running)):
            os.kill(pool, signal.SIGKILL)
        self._has_killed = True

    async def tell(self, models: FakeModels) -> None:
        told = await self._connection.fetch("SELECT status, count(*) FROM jobs GROUP BY status ORDER BY status")
        say("\n" + ", ".join(f"{row['count']} {row['status']}" for row in told))
        if models.met:
            raise PushqError(f"Two jobs were on one model: {models.met[0]}")
        say(f"{models.runs.total()} runs on {len(MODELS)} models, of at most four at once: never two on one model.")
        say(f"\nThe log of {URGENT}, which a dead pool had:")
        for row in await self._connection.fetch(LOG, URGENT):
            say(f"    {row['created_at']:%H:%M:%S.%f}  {row['event_type']:<10} {row['conflict_reason'] or ''}")

    async def _show_queue(self) -> None:
        rows = await self._connection.fetch(SHOW)
        state = await self._connection.fetchrow(STATE)
        assert state
        say(f"\n    in use: {state['active_models']}, since the longest by {state['active_job_id'] or 'nobody'}")
        for row in rows if len(rows) < 10 else rows[:5] + rows[-4:]:
            place, job, models = row["queue_position"] or "-", row["id"], row["required_models"]
            say(f"    {place:>4} {job:<10} {row['status']:<8} {models:<20} {row['conflict_reason'] or ''}")

    async def clean_up(self, *, was_there: bool) -> None:
        """Deletes the jobs, and what was not there before."""
        await self._connection.execute("delete from pushq.jobs where queue = 'models'")
        if not was_there:
            await self._connection.execute((HERE / "rollback.sql").read_text())


def pools_of(supervisor: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of its children."""
    children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


@contextmanager
def supervisors(url: str, models_url: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    with ExitStack() as running:
        yield [running.enter_context(supervisor(url, models_url)) for _ in range(2)]


@contextmanager
def supervisor(url: str, models_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """`pushq supervise`, in a session of its own, which Ctrl-C does not reach. Dies with this program."""
    flags = ("--queue=models", "--concurrency=4", "--http-port=0", "--shutdown-timeout=2", "--lease=2")
    quick = {"PUSHQ_HEARTBEAT_INTERVAL": "0.5", "PUSHQ_SWEEP_INTERVAL": "0.5", "COORD_MODEL_URL": models_url}
    process = subprocess.Popen(
        [sys.executable, "-m", "pushq", "supervise", "tasks:tasks", *flags],
        cwd=HERE,
        env=environment(url) | quick,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
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
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PUSHQ_")}
    return clean | {"PUSHQ_DATABASE_URL": url}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
