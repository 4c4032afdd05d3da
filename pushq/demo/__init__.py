"""`pushq demo`: everything at work on a machine that has nothing but Python, with an embedded PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from pushq.database.embedded import EmbeddedServer
from pushq.database.migrate import migrate
from pushq.database.session import Session
from pushq.demo.process import dies_with_us
from pushq.errors import PushqError, UsageError

PYTHON = (".py",)
BINARY = (".png", ".gif", ".ico", ".bmp", ".exe", ".whl", ".zip", ".so", ".a", ".o", ".pyc", ".wav", ".au", ".aiff",
          ".aifc", ".gz", ".bz2", ".xz", ".tar", ".pck", ".xpm", ".icns", ".dbm", ".pdf")  # fmt: skip
SKIPPED = {"__pycache__", "site-packages", "node_modules"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Counts:
    finished: int
    failed: int
    total: int


class Demo:
    """A running demo: a server, a supervisor, and a session of our own, as an app would have it."""

    def __init__(
        self, server: EmbeddedServer, supervisor: subprocess.Popen[bytes], port: int, session: Session
    ) -> None:
        self.server = server
        self.supervisor = supervisor
        self.port = port
        self._session = session

    @property
    def url(self) -> str:
        return self.server.url()

    async def insert(self, files: Sequence[Path]) -> None:
        """One job a file, by plain SQL."""
        await self._session.fetch(
            "insert into pushq.jobs (task, payload) "
            "select task, jsonb_build_object('path', path) from unnest($1::text[], $2::text[]) as file (task, path)",
            [task_for(file) for file in files],
            [str(file) for file in files],
        )

    async def watch(self, total: int) -> AsyncIterator[Counts]:
        """Counts, a few times a second, until every job is finished."""
        while True:
            (row,) = await self._session.fetch(
                "select count(*) as finished, count(*) filter (where status = 'failed') as failed "
                "from pushq.jobs where finished_on < 'infinity'"
            )
            yield Counts(row["finished"], row["failed"], total)
            if row["finished"] >= total:
                return
            if self.supervisor.poll() is not None:
                raise PushqError(f"The demo's supervisor ended by itself, with {self.supervisor.returncode}.")
            await anyio.sleep(0.2)

    async def summary(self) -> list[dict[str, Any]]:
        """A row a task: done, failed, retried, jobs/s, and the wait from due to started in milliseconds."""
        rows = await self._session.fetch(
            """
            select
                task,
                count(*) filter (where status = 'succeeded') as done,
                count(*) filter (where status = 'failed') as failed,
                sum(attempt - 1) as retried,
                round(count(*) / extract(epoch from max(finished_at) - min(enqueued_at)))::int as "jobs/s",
                round(1000 * percentile_cont(0.5) within group (order by waited))::int as "wait p50 ms",
                round(1000 * percentile_cont(0.99) within group (order by waited))::int as "wait p99 ms"
            from pushq.jobs
            cross join lateral (
                select extract(epoch from pushq.waited(run_at, enqueued_at, started_at)) as waited) as duration
            where finished_on < 'infinity'
            group by task
            order by task
            """
        )
        return [dict(row) for row in rows]

    async def pick_ups(self, count: int) -> list[float]:
        """How long single jobs wait on the now idle system, in seconds: inserted one by one, each after the last."""
        waits = []
        for _ in range(count):
            (row,) = await self._session.fetch(
                "insert into pushq.jobs (task, payload) values ('file.digest', $1::text::jsonb) returning id",
                json.dumps({"path": __file__}),
            )
            waits.append(await self._wait_of(row["id"]))
        return waits

    async def _wait_of(self, job_id: object) -> float:
        while True:
            rows = await self._session.fetch(
                "select extract(epoch from started_at - enqueued_at)::float8 as waited from pushq.jobs "
                "where id = $1 and finished_on < 'infinity'",
                job_id,
            )
            if rows:
                return float(rows[0]["waited"])
            await anyio.sleep(0.01)


@contextmanager
def serving(say: Say) -> Iterator[EmbeddedServer]:
    say("starting PostgreSQL")
    with EmbeddedServer(durable=True) as server:
        yield server


@contextmanager
def supervising(server: EmbeddedServer, processes: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A real `pushq supervise`, in a process group of its own, on a free port: Ctrl-C is for us, who then stop it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHQ_")}
    command = [sys.executable, "-m", "pushq", "supervise", "pushq.demo.tasks:tasks"]
    flags = [
        "--http-port=0",
        "--log-format=json",
        f"--processes={processes}",
        "--concurrency=4",
        "--shutdown-timeout=2",
    ]
    supervisor = subprocess.Popen(
        [*command, *flags],
        env=environment | {"PUSHQ_DATABASE_URL": server.url()},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=dies_with_us(),
    )
    try:
        yield supervisor, _port(supervisor)
    finally:
        supervisor.terminate()
        try:
            supervisor.wait(10)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()


def _port(supervisor: subprocess.Popen[bytes]) -> int:
    """Where it serves: it says so when it starts. What it says later goes nowhere."""
    assert supervisor.stderr is not None
    said = b""
    for line in supervisor.stderr:
        said += line
        if b"supervisor started" in line:
            _drink(supervisor)
            return int(json.loads(line)["http_port"])
    raise PushqError(f"The demo's supervisor did not start; it said: {said.decode(errors='replace').strip()}")


def _drink(supervisor: subprocess.Popen[bytes]) -> None:
    """Reads on, so that the supervisor never waits for a full pipe."""
    from threading import Thread

    assert supervisor.stderr is not None
    Thread(target=supervisor.stderr.read, daemon=True).start()


def find_files(folder: Path) -> list[Path]:
    """Every file below a folder, but caches and installed packages. Raises UsageError when there is none."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name one with files to work on.")
    files = [
        Path(directory, name)
        for directory, folders, names in os.walk(folder)
        if _keep(folders)
        for name in names
        if Path(directory, name).is_file() and not name.endswith(".pyc")
    ]
    if not files:
        raise UsageError(f"{folder} has no files; name a folder with files to work on.")
    return sorted(files)


def _keep(folders: list[str]) -> bool:
    """Has os.walk pass over some folders."""
    folders[:] = sorted(set(folders) - SKIPPED)
    return True


def task_for(file: Path) -> str:
    if file.suffix in PYTHON:
        return "python.tokens"
    return "file.digest" if file.suffix.lower() in BINARY else "text.lines"


async def open_demo(server: EmbeddedServer, supervisor: subprocess.Popen[bytes], port: int) -> Demo:
    return Demo(server, supervisor, port, Session(server.url(), "pushq demo"))


async def prepare(server: EmbeddedServer) -> None:
    await migrate(server.url())


async def fetch_metrics(port: int) -> str:
    """What Prometheus would scrape."""
    from urllib.request import urlopen

    def fetch() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            return str(response.read().decode())

    return await to_thread.run_sync(fetch)
