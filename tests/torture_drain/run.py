"""One run: sets the stage, tells the supervisor to stop, looks at what it leaves, and has another one do the rest."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import asyncpg

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer
from tests.support.hurt import freeze, thaw
from tests.support.jobs import Connection
from tests.support.proxy import proxied
from tests.support.server import Server
from tests.support.supervisors import QUICK, RunningSupervisor, environment, launch
from tests.support.waiting import eventually
from tests.torture.hosts import processes_of
from tests.torture_drain.judge import Facts, Row, Runs, Stop, reaction, violations
from tests.torture_drain.plan import Job, Plan, Situation

TASKS = "tests.torture_drain.handlers:tasks"
SETTINGS = QUICK | {"SWEEP_INTERVAL": "0.25"}
GIVEN_UP_AFTER = 10.0
"""Seconds beyond its deadline after which a supervisor that is still there is killed."""

ROWS = """
select id::text, task, status, attempt, failures, crashes, extract(epoch from started_at)::float8 as started_at
from pushq.jobs
"""
SESSIONS = """
select application_name from pg_stat_activity where datname = current_database() and application_name like 'pushq %'
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run came to. over: seconds from the deadline of its jobs to its end; reaction: from the signal to the last
    job that began. released and swept: jobs that were given back, or had to be taken away by somebody else's sweeper.
    """

    seed: int
    situation: str
    plan: str
    took: float = 0.0
    over: float = 0.0
    reaction: float = 0.0
    exit_code: int | None = None
    had_begun: bool = False
    running: int = 0
    released: int = 0
    swept: int = 0
    void: bool = False
    violations: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


async def run(server: EmbeddedServer, template: str, plan: Plan, directory: Path) -> Ended:
    """Plays a plan on a database of its own. What goes wrong with the run itself is a violation, too."""
    try:
        facts = await _Drain(server, plan, directory).play(template)
    except (AssertionError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        broke = f"the run broke: {type(error).__name__}: {error}"
        return Ended(
            plan.seed, plan.situation, str(plan), 0, 0, 0, None, False, 0, 0, 0, void=False, violations=[broke]
        )
    finally:
        thaw(server)
    return _ended(facts)


def _ended(facts: Facts) -> Ended:
    plan, stop = facts.plan, facts.stop
    begun = {row.id for row in facts.after if row.attempt}
    return Ended(
        seed=plan.seed,
        situation=plan.situation,
        plan=str(plan),
        took=round(stop.took, 3),
        over=round(stop.took - min(plan.grace, plan.second[1] if plan.second else plan.grace), 3),
        reaction=round(reaction(facts), 3),
        exit_code=stop.exit_code,
        had_begun=facts.had_begun,
        running=facts.running,
        released=sum(row.status == "queued" and row.id in begun for row in facts.after),
        swept=sum(row.crashes > facts.jobs[row.id].crashes for row in facts.end),
        void=plan.situation.runs_jobs and facts.running == 0,
        violations=violations(facts),
    )


class _Drain:
    def __init__(self, server: EmbeddedServer, plan: Plan, directory: Path) -> None:
        self._server = server
        self._plan = plan
        self._log = directory / "log"
        self._runs = directory / "runs.jsonl"
        self._later_runs = directory / "later.jsonl"
        self._jobs: dict[str, Job] = {}

    async def play(self, template: str) -> Facts:
        databases = Server(self._server.url(), str(self._server.bin_directory), "drain")
        is_migrated = self._plan.situation is not Situation.UNMIGRATED
        async with databases.fresh_database(template if is_migrated else "template1") as url:
            if is_migrated:
                await self._insert(url)
            async with self._beside(url) as address:
                supervisor = self._launch(address)
                try:
                    running = await self._come_about(supervisor)
                    stop = await self._stop(url, supervisor)
                finally:
                    supervisor.end()
            if not is_migrated:
                await self._insert(url)
            return await self._take_stock(url, supervisor, running, stop)

    # Before -----------------------------------------------------------------------------------------------------

    async def _insert(self, url: str) -> None:
        async with _connected(url) as connection:
            ids = await connection.fetch(
                "insert into pushq.jobs (task, payload, crashes, apart) "
                "select task, payload, crashes, pushq.apart(crashes) "
                "from unnest($1::text[], $2::jsonb[], $3::int[]) as job (task, payload, crashes) returning id::text",
                [job.task for job in self._plan.jobs],
                [json.dumps(job.payload) for job in self._plan.jobs],
                [job.crashes for job in self._plan.jobs],
            )
        self._jobs = {row["id"]: job for row, job in zip(ids, self._plan.jobs, strict=True)}

    @asynccontextmanager
    async def _beside(self, url: str) -> AsyncIterator[str]:
        """What is there beside the supervisor; yields the URL that it is to use."""
        async with AsyncExitStack() as stack:
            if self._plan.situation is Situation.SILENT:
                self._proxy = await stack.enter_async_context(proxied(url))
                url = self._proxy.url
            if self._plan.situation is Situation.UNMIGRATED:
                group = await stack.enter_async_context(asyncio.TaskGroup())
                group.create_task(self._migrate(url))
            yield url

    async def _migrate(self, url: str) -> None:
        await asyncio.sleep(max(0.0, self._plan.lead))
        await migrate(url)

    def _launch(self, url: str) -> RunningSupervisor:
        plan = self._plan
        given = {
            "PROCESSES": f"{plan.processes}",
            "CONCURRENCY": f"{plan.concurrency}",
            "SHUTDOWN_TIMEOUT": f"{plan.grace:g}",
            "TEST_RUNS": str(self._runs),
        }
        return launch(self._log, TASKS, env=environment(url, **(SETTINGS | given)))

    async def _come_about(self, supervisor: RunningSupervisor) -> int:
        """Waits for what the supervisor is to be at, and for its instant; returns how many handlers are under way."""
        if self._plan.situation.runs_jobs:
            await eventually(self._anything_runs, within=30)
        elif not self._plan.situation.is_at_start:
            await eventually(lambda: self._pools_are_ready(supervisor), within=30)
        await asyncio.sleep(self._plan.instant)
        return self._count_running() if self._runs.exists() else 0

    async def _anything_runs(self) -> bool:
        return self._runs.exists() and self._runs.stat().st_size > 0

    async def _pools_are_ready(self, supervisor: RunningSupervisor) -> bool:
        return supervisor.said.count("pool ready") == self._plan.processes

    def _count_running(self) -> int:
        runs = _read(self._runs)
        return sum(map(len, runs.began.values())) - sum(map(len, runs.returned.values()))

    # The drain --------------------------------------------------------------------------------------------------

    async def _stop(self, url: str, supervisor: RunningSupervisor) -> Stop:
        """Does to the database what the plan has for it, a while before the signal or after it; heals it at the end."""
        lead = self._plan.lead
        async with AsyncExitStack() as healed, asyncio.TaskGroup() as group:
            if lead >= 0:
                await self._befall(url, supervisor, healed)
                await asyncio.sleep(lead)
            # In a thread: it is not to wait for anything that holds up this loop.
            stopping = group.create_task(asyncio.to_thread(_stop, supervisor.process, self._plan))
            if lead < 0:
                await asyncio.sleep(-lead)
                await self._befall(url, supervisor, healed)
            return await stopping

    async def _befall(self, url: str, supervisor: RunningSupervisor, healed: AsyncExitStack) -> None:
        match self._plan.situation:
            case Situation.FROZEN:
                self._freeze(healed)
            case Situation.SILENT:
                self._proxy.is_silent = True
            case Situation.RESTARTED:
                # On this thread: the server's life hangs on the one that starts it.
                self._server.restart(crash=self._plan.crashes_database)
            case Situation.LOCKED:
                connection = await healed.enter_async_context(_connected(url))
                await healed.enter_async_context(connection.transaction())
                await connection.execute("lock table pushq.jobs in access exclusive mode")
            case Situation.BEREFT:
                if not self._plan.spares_database:
                    self._freeze(healed)
                if pools := supervisor.pools if supervisor.process.poll() is None else []:
                    os.kill(pools[self._plan.seed % len(pools)], signal.SIGKILL)

    def _freeze(self, healed: AsyncExitStack) -> None:
        healed.callback(thaw, self._server)
        freeze(self._server)

    # After ------------------------------------------------------------------------------------------------------

    async def _take_stock(self, url: str, supervisor: RunningSupervisor, running: int, stop: Stop) -> Facts:
        async with _connected(url) as connection:
            sessions = await _left_sessions(connection)
            supervisors = await connection.fetchval("select count(*) from pushq.supervisors")
            after = await _rows(connection)
            runs = _read(self._runs)
            await self._run_the_rest(url, connection)
            end = await _rows(connection)
        return Facts(
            plan=self._plan,
            stop=stop,
            said=supervisor.said,
            jobs=self._jobs,
            running=running,
            runs=runs,
            after=after,
            rows_of_supervisors=supervisors,
            sessions=sessions,
            later_runs=_read(self._later_runs),
            end=end,
        )

    async def _run_the_rest(self, url: str, connection: Connection) -> None:
        async def is_done() -> bool:
            return not await connection.fetchval("select count(*) from pushq.jobs_unfinished")

        if await is_done():
            return
        given = {"CONCURRENCY": "50", "TEST_RUNS": str(self._later_runs), "TEST_HASTE": "1"}
        another = launch(self._log.with_name("later"), TASKS, env=environment(url, **(SETTINGS | given)))
        try:
            await eventually(is_done, within=40)
        finally:
            another.end()


def _stop(process: subprocess.Popen[bytes], plan: Plan) -> Stop:
    """Signals it, watches it go, and kills what does not."""
    second_was_sent = False
    wall, began = time.time(), time.monotonic()
    _send(process, plan.signal, to_group=plan.to_group)
    while process.poll() is None and (seconds := time.monotonic() - began) < plan.must_be_gone_after + GIVEN_UP_AFTER:
        if plan.second and not second_was_sent and seconds >= plan.second[1]:
            _send(process, plan.second[0], to_group=plan.to_group and plan.second[0] != "SIGKILL")
            second_was_sent = True
        time.sleep(0.003)
    took, code = time.monotonic() - began, process.returncode
    left = _left_processes(process.pid, within=0.2 if plan.is_orderly else 2.0) if code is not None else []
    return Stop((wall, began), took, code, second_was_sent, left)


def _send(process: subprocess.Popen[bytes], name: str, *, to_group: bool) -> None:
    number = signal.Signals[name]
    if to_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def _left_processes(group: int, within: float) -> list[str]:
    deadline = time.monotonic() + within
    while (left := list(processes_of([group]))) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


async def _left_sessions(connection: Connection) -> list[str]:
    """After a while in which the server may notice that its clients are gone, and end what they asked for."""
    left: list[str] = []
    for _ in range(200):
        left = [row["application_name"] for row in await connection.fetch(SESSIONS)]
        if not left:
            break
        await asyncio.sleep(0.025)
    return left


async def _rows(connection: Connection) -> list[Row]:
    return [Row(**row) for row in await connection.fetch(ROWS)]


def _read(file: Path) -> Runs:
    return Runs.read(file.read_text().splitlines()) if file.exists() else Runs()


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url, timeout=20)
    try:
        yield connection
    finally:
        connection.terminate()
