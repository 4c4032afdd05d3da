"""The comparison: each system does the same in turn, and pushq is set beside each peer of the same round."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from pushq.bench.connection import connected
from pushq.bench.figures import Measure, Target, at_least, at_most, no_more_than, percentile
from pushq.bench.ground import checkpoint, with_socket_as_host
from pushq.bench.idle import transactions
from pushq.bench.peers.catalogue import PEERS, PUSHQ, System
from pushq.bench.peers.installed import Installed
from pushq.bench.peers.program import Program, running
from pushq.bench.run import Run
from pushq.bench.scenarios import Scenario
from pushq.bench.waiting import wait_until
from pushq.errors import PushqError

DRAINED = (20_000, 100_000)
RATES = ((50, 6.0), (200, 4.0))
"""Jobs a second, and seconds."""
CLIENTS = (1, 8, 32)
SECONDS_OF_INSERTS = 4.0
INSERTED_AT_ONCE = 100_000
SECONDS_TO_SETTLE = 12.0
"""Until an idle worker has done what it does at its start, and the server has counted that."""
SECONDS_IDLE = 60.0
SECONDS_TO_FINISH = 180.0

Figures = dict[str, float]
"""A system's figures of one round, by the measure's name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a figure is: its unit, and the aim beside each peer, if any."""

    unit: str
    target: Target | None = None


def contests(installed: Installed, systems: Sequence[System] = (PUSHQ, *PEERS)) -> list[Scenario]:
    """The scenarios in which the systems are compared. systems: pushq first."""

    def compared(
        name: str,
        measures: str,
        measure: Callable[[Stage], Awaitable[Figures]],
        kind: Callable[[str], Kind],
        seconds: int,
    ) -> Scenario:
        contest = _Contest(name, installed, systems, measure, kind)
        return Scenario(name, measures, contest.run, seconds, -(-seconds // 60), by_default=True)

    return [
        compared("drain", "jobs/s of one worker from the commit of all jobs to the last handler", _drain, _rate, 900),
        compared("pick-up", "from the start of the client's call to the handler's first line", _pick_up, _time, 350),
        compared(
            "insert", "jobs/s enqueued one by one, beside a worker that runs them", _insert, _rate_of_inserts, 400
        ),
        compared("bulk", "jobs/s enqueued by the client's fastest call, building the jobs included", _bulk, _rate, 150),
        compared("idle", "CPU seconds and statements a minute of a worker without work", _idle, _cost, 1900),
    ]


class Stage:
    """A system with a fresh database, in which its schema is installed."""

    def __init__(self, run: Run, system: System, command: list[str], url: str, directory: Path) -> None:
        self.run = run
        self.system = system
        self.url = url
        self._command = command
        self._tally = directory / "tally"

    @asynccontextmanager
    async def working(self, configuration: Mapping[str, Any], jobs: int = 0) -> AsyncIterator[Program]:
        """A worker that looks for jobs. jobs: how many it will execute."""
        options = {"configuration": configuration, "tally": str(self._tally), "jobs": jobs}
        async with self.program("worker", options) as worker:
            await worker.answer()
            yield worker

    @asynccontextmanager
    async def program(self, command: str, options: Mapping[str, Any]) -> AsyncIterator[Program]:
        arguments = [command, with_socket_as_host(self.url), json.dumps(options)]
        async with running([*self._command, *arguments], self.system.name) as program:
            yield program

    async def answer(self, command: str, options: Mapping[str, Any]) -> dict[str, Any]:
        async with self.program(command, options) as program:
            return await program.answer()

    def forget(self) -> None:
        """Empties the tally, to which a worker may go on to append."""
        self._tally.write_bytes(b"")

    def told(self, word: str) -> list[list[float]]:
        """The lines of the tally that begin with a word, as numbers."""
        lines = self._tally.read_text().splitlines() if self._tally.exists() else []
        return [[float(one) for one in line.split()[1:]] for line in lines if line.startswith(word)]


@dataclass(frozen=True, slots=True)
class _Contest:
    name: str
    installed: Installed
    systems: Sequence[System]
    measure: Callable[[Stage], Awaitable[Figures]]
    kind: Callable[[str], Kind]

    async def run(self, run: Run) -> None:
        async for number in run.rounds(self.name):
            first = number % len(self.systems)
            order = [*self.systems[first:], *self.systems[:first]]
            figures = {system.name: await self._measured(run, system, number) for system in order}
            self._note(run, figures)

    async def _measured(self, run: Run, system: System, number: int) -> Figures:
        run.show(f"{self.name}, round {number}: {system.name}")
        command = self.installed.command(system)
        with TemporaryDirectory() as directory:
            async with run.ground.database(is_empty=True) as url:
                stage = Stage(run, system, command, url, Path(directory))
                await stage.answer("set-up", {})
                async with connected(url) as connection:
                    await checkpoint(connection)
                return await self.measure(stage)

    def _note(self, run: Run, figures: Mapping[str, Figures]) -> None:
        ours = figures[self.systems[0].name]
        for name, value in ours.items():
            kind = self.kind(name)
            for peer in self.systems[1:]:
                run.add(Measure(self.name, name, kind.unit, peer.name, kind.target), value, figures[peer.name][name])
            if len(self.systems) == 1:
                run.add(Measure(self.name, name, kind.unit), value)


# What each system does ------------------------------------------------------------------------------------------------


async def _drain(stage: Stage) -> Figures:
    figures = {}
    for count in map(stage.run.scope.jobs, DRAINED):
        figures[f"{count:,} jobs"] = await _drained(stage, count)
    return figures


async def _drained(stage: Stage, count: int) -> float:
    """Jobs/s. The worker is there, and sees all jobs at once. Raises PushqError if not each job ran once."""
    stage.forget()
    async with stage.working(stage.system.drain, count) as worker, stage.program("burst", {"count": count}) as producer:
        await producer.answer()
        await producer.tell()
        committed = (await producer.answer())["committed"]

        async def all_are_executed() -> bool:
            worker.check_alive()
            return bool(stage.told("executed"))

        await wait_until(
            all_are_executed, f"{stage.system.name} did not run {count:,} jobs", within=SECONDS_TO_FINISH, every=0.01
        )
    executed, ended = stage.told("executed")[0]
    if (times := stage.told("executed")[-1][0]) != count:
        raise PushqError(f"{stage.system.name} ran handlers {times:,.0f} times for {count:,} jobs.")
    return float(executed / (ended - committed))


async def _pick_up(stage: Stage) -> Figures:
    figures = {}
    async with stage.working(stage.system.live) as worker:
        await _picked_up(stage, worker, 50, 1.0)  # warms up
        for rate, seconds in RATES:
            took = await _picked_up(stage, worker, rate, stage.run.scope.seconds(seconds))
            for share in (0.5, 0.95, 0.99):
                figures[f"{rate}/s, p{100 * share:.0f}"] = percentile(took, share)
    return figures


async def _picked_up(stage: Stage, worker: Program, rate: int, seconds: float) -> list[float]:
    """Milliseconds from the start of the client's call to the handler, of jobs enqueued at a fixed rate."""
    stage.forget()
    begun = (await stage.answer("steady", {"rate": rate, "seconds": seconds}))["begun"]

    async def all_are_picked_up() -> bool:
        worker.check_alive()
        return len(stage.told("picked")) >= len(begun)

    await wait_until(
        all_are_picked_up, f"{stage.system.name} did not run all jobs", within=SECONDS_TO_FINISH, every=0.05
    )
    return [1000 * (instant - begun[int(number)]) for number, instant in stage.told("picked")]


async def _insert(stage: Stage) -> Figures:
    figures = {}
    async with stage.working(stage.system.live) as worker:
        for clients in CLIENTS:
            seconds = stage.run.scope.seconds(SECONDS_OF_INSERTS)
            answer = await stage.answer("crowd", {"clients": clients, "seconds": seconds})
            worker.check_alive()
            figures[f"{clients} client{'s' if clients > 1 else ''}"] = answer["enqueued"] / answer["seconds"]
    return figures


async def _bulk(stage: Stage) -> Figures:
    count = stage.run.scope.jobs(INSERTED_AT_ONCE)
    answer = await stage.answer("bulk", {"count": count, "call": stage.system.bulk})
    return {f"{count:,} jobs": count / answer["seconds"]}


async def _idle(stage: Stage) -> Figures:
    seconds = stage.run.scope.seconds(SECONDS_IDLE)
    async with stage.working(stage.system.live) as worker, connected(stage.run.ground.url) as onlooker:
        await anyio.sleep(min(SECONDS_TO_SETTLE, seconds))
        cpu, statements = worker.cpu_seconds(), await transactions(onlooker, stage.url)
        await anyio.sleep(seconds)
        worker.check_alive()
        cpu, statements = worker.cpu_seconds() - cpu, await transactions(onlooker, stage.url) - statements
    return {"CPU s a minute": 60 * cpu / seconds, "statements a minute": 60 * statements / seconds}


def _rate(_: str) -> Kind:
    return Kind("/s", at_least(1.3))


def _rate_of_inserts(name: str) -> Kind:
    return Kind("/s", at_least(1.2) if name == f"{CLIENTS[-1]} clients" else None)


def _time(name: str) -> Kind:
    return Kind("ms", at_most(1.0) if name.endswith("p50") else None)


def _cost(name: str) -> Kind:
    return Kind("s", no_more_than(0.07)) if name.startswith("CPU") else Kind("statements", no_more_than(30))
