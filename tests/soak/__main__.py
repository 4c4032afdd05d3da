"""`make soak`: hours of ordinary work under kills and restarts; does memory grow, is anything lost?

Two supervisors work on a server that flushes to disk. One lives throughout. The other is killed or drained each minute
and started again, all of pushq's sessions are ended now and then, and the server is restarted. Clients insert jobs of
every kind at an even rate. Each minute a line tells how much memory the processes of the one that lives have had, and
at the end their growth from minute FROM on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import asyncpg
import click

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer
from tests.support.supervisors import RunningSupervisor, environment, launch
from tests.support.waiting import eventually

FROM = 5
"""The minute with which the last one is compared: until then modules are imported and pools of objects filled."""
MOST_GROWTH = 0.03
CLIENTS = 4
SETTLES_WITHIN = 60.0
AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
KINDS = {
    "nothing": (60, "{}"),
    "nap": (15, '{"seconds": 0.02}'),
    "thread": (8, '{"text": "' + "x" * 2_000 + '"}'),
    "fail.once": (6, "{}"),
    "snooze": (4, "{}"),
    "slow": (1, "{}"),
    "context": (3, "{}"),
    "background": (3, "{}"),
}
"""How often each, and with which payload."""
SETTINGS = {"HEARTBEAT_INTERVAL": "2", "LEASE": "6", "SWEEP_INTERVAL": "3", "SHUTDOWN_TIMEOUT": "3"}


@dataclass
class Report:
    """memory: MiB of each process that lived throughout, minute by minute. lost: jobs that are not to be found."""

    minutes: int
    inserted: int = 0
    finished: int = 0
    lost: int = 0
    unfinished: int = 0
    crashes_of_the_living: int = 0
    faults: int = 0
    memory: dict[str, list[float]] = field(default_factory=dict)

    @property
    def growth(self) -> dict[str, float]:
        """The last minute by minute FROM, less one."""
        return {
            who: round(grown[-1] / grown[FROM - 1] - 1, 4) for who, grown in self.memory.items() if len(grown) > FROM
        }

    @property
    def is_sound(self) -> bool:
        whole = not (self.lost or self.unfinished or self.crashes_of_the_living)
        return whole and all(growth <= MOST_GROWTH for growth in self.growth.values())


@click.command()
@click.option("--minutes", default=30, show_default=True, type=click.IntRange(1), help="How long to insert.")
@click.option("--rate", default=200.0, show_default=True, type=click.FloatRange(1), help="Jobs a second.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
def main(minutes: int, rate: float, as_json: bool) -> None:
    """Works for so long under kills and restarts. Exit code 1: memory grew, or a job was lost."""
    report = Report(minutes)
    with suppress(KeyboardInterrupt):
        anyio.run(soak, report, rate)
    click.echo(json.dumps(asdict(report) | {"growth": report.growth}) if as_json else _told(report))
    sys.exit(not report.is_sound)


def _told(report: Report) -> str:
    growth = ", ".join(f"{who} {100 * grown:+.1f} %" for who, grown in report.growth.items()) or "not measured"
    return (
        f"{report.inserted:,} inserted, {report.finished:,} finished, {report.lost} lost, {report.unfinished} left, "
        f"{report.crashes_of_the_living} pools of the living one died; "
        f"{report.faults} faults; growth from minute {FROM} to {report.minutes}: {growth}"
    )


async def soak(report: Report, rate: float) -> None:
    with EmbeddedServer(durable=True) as server, TemporaryDirectory() as directory:
        await migrate(server.url())
        with _supervisor(server, Path(directory) / "living", 2) as living:
            async with anyio.create_task_group() as around:
                around.start_soon(_keep_killing, report, server, Path(directory) / "dying")
                around.start_soon(_weigh, report, living)
                async with anyio.create_task_group() as clients:
                    for number in range(CLIENTS):
                        clients.start_soon(_insert, report, server, number, rate / CLIENTS)
                around.cancel_scope.cancel()
            await _audit(report, server, living)


@contextmanager
def _supervisor(server: EmbeddedServer, log: Path, processes: int) -> Iterator[RunningSupervisor]:
    env = environment(server.url(), **SETTINGS)
    supervisor = launch(log, "tests.soak.handlers:tasks", f"--processes={processes}", env=env)
    try:
        yield supervisor
    finally:
        supervisor.end()


async def _keep_killing(report: Report, server: EmbeddedServer, log: Path) -> None:
    """A fault each minute, in turn."""
    for minute in range(1_000_000):
        with _supervisor(server, log, 1) as dying:
            await anyio.sleep(50)
            match minute % 4:
                case 0:
                    dying.kill_all()
                case 1:
                    dying.signal(signal.SIGTERM)
                    await anyio.sleep(8)
                case 2:
                    await _end_sessions(server)
                case 3:
                    server.restart(crash=bool(minute % 8 == 3))
            report.faults += 1
            await anyio.sleep(2)


async def _end_sessions(server: EmbeddedServer) -> None:
    connection = await asyncpg.connect(server.url())
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '^pushq '"
    )
    connection.terminate()


async def _weigh(report: Report, living: RunningSupervisor) -> None:
    await anyio.sleep(5)
    processes = {"supervisor": living.process.pid} | {f"pool {n}": pid for n, pid in enumerate(living.pools, 1)}
    for minute in range(1, report.minutes + 1):
        samples: dict[str, list[float]] = {who: [] for who in processes}
        for _ in range(55 if minute == 1 else 60):
            for who, pid in processes.items():
                samples[who].append(_resident(pid))
            await anyio.sleep(1)
        for who, weighed in samples.items():
            report.memory.setdefault(who, []).append(statistics.median(weighed))
        weights = ", ".join(f"{who} {grown[-1]:.1f} MiB" for who, grown in report.memory.items())
        click.echo(f"minute {minute}: {report.inserted:,} inserted, {report.faults} faults; {weights}", err=True)


def _resident(pid: int) -> float:
    """MiB; none, if it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


async def _insert(report: Report, server: EmbeddedServer, number: int, rate: float) -> None:
    chance, began, placed = random.Random(number), time.monotonic(), 0
    tasks, weights = list(KINDS), [weight for weight, _ in KINDS.values()]
    while time.monotonic() < began + 60 * report.minutes:
        with suppress(*AWAY):
            connection = await asyncpg.connect(server.url(), timeout=5, command_timeout=10)
            try:
                while time.monotonic() < began + 60 * report.minutes:
                    task = chance.choices(tasks, weights)[0]
                    await connection.execute(
                        "insert into pushq.jobs (task, payload) values ($1, $2)", task, KINDS[task][1]
                    )
                    report.inserted += 1
                    placed += 1
                    await anyio.sleep(max(0.0, began + placed / rate - time.monotonic()))
            finally:
                connection.terminate()
        await anyio.sleep(0.1)


async def _audit(report: Report, server: EmbeddedServer, living: RunningSupervisor) -> None:
    connection = await asyncpg.connect(server.url())

    async def all_have_run() -> bool:
        return not await connection.fetchval("select count(*) from pushq.jobs_unfinished")

    with suppress(AssertionError):
        await eventually(all_have_run, within=SETTLES_WITHIN)
    report.unfinished = await connection.fetchval("select count(*) from pushq.jobs_unfinished")
    report.finished = await connection.fetchval("select count(*) from pushq.jobs where finished_on < 'infinity'")
    report.lost = max(0, report.inserted - report.finished - report.unfinished)
    report.crashes_of_the_living = living.said.count("pool died")
    connection.terminate()


if __name__ == "__main__":
    main()
