"""`make torture-bell`: tries to make pushq lose a wake-up.

Theory of operation. Real supervisors with the poll switched off run on a real PostgreSQL that flushes to disk.
Inserters commit jobs in every way there is, around the instants at which pools fall asleep and gates are opened and
shut; faults kill and cut what can be killed and cut. A wake-up that was lost does not show by itself, since the next
ring makes up for it. So there is a hush after every few of them, and a watch looks at the table fifty times a second
for a job that waits although a worker is free. At the end the table is compared with what was promised.

    inserters ─jobs→ PostgreSQL ←claims─ supervisors ←faults
        └─promises→ ledger ←compares─ watch, audit

`--planted` takes a step out of pushq's argument, in the pools alone, and ends at the first job that is found to wait.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import asyncpg
import click
from anyio import to_thread

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer
from tests.support.waiting import eventually
from tests.torture_bell.conductor import Conductor, Solo
from tests.torture_bell.faults import Faults
from tests.torture_bell.inserters import Connections, Inserter
from tests.torture_bell.ledger import Ledger
from tests.torture_bell.planted import BUGS
from tests.torture_bell.report import Evidence, Report, audit
from tests.torture_bell.stage import PARTS, QUEUES, Supervisors, own_queues
from tests.torture_bell.stalls import Stalls
from tests.torture_bell.watch import Grace, Watch

INSERTERS_A_QUEUE = 2
SETTLES_WITHIN = 30.0
"""Seconds after the last commit within which everything must have run."""


@click.command()
@click.option("--minutes", default=30.0, show_default=True, help="How long to insert.")
@click.option("--seed", type=int, help="Of the random choices; drawn, and reported, if it is not given.")
@click.option("--planted", type=click.Choice(list(BUGS)), help="A bug to find, at whose discovery it ends.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
def main(minutes: float, seed: int | None, planted: str | None, as_json: bool) -> None:
    """Tries to make pushq lose a wake-up. Exit code 1: it did."""
    report = anyio.run(torture, minutes * 60, random.randrange(10**6) if seed is None else seed, planted)
    click.echo(json.dumps(report.as_dict(), default=str) if as_json else str(report))
    sys.exit(report.violations > 0)


async def torture(seconds: float, seed: int, planted: str | None) -> Report:
    with EmbeddedServer(durable=True, settings={"max_prepared_transactions": "20"}) as server:
        await migrate(server.url())
        supervisors = Supervisors(server.url(), planted)
        with supervisors.running():
            return await Torture(server, supervisors, seed, planted).run(seconds)


class Torture:
    """One run: joins the parts, and lets the curtain fall."""

    def __init__(self, server: EmbeddedServer, supervisors: Supervisors, seed: int, planted: str | None) -> None:
        self._server = server
        self._supervisors = supervisors
        self._seed = seed
        self._planted = planted
        self._ledger = Ledger()
        self._grace = Grace()
        self._stalls = Stalls()
        self._watch = Watch(server.url(), self._ledger, supervisors, self._grace, self._stalls)
        self._faults = Faults(server, supervisors, self._ledger, self._grace, self._chance("faults"))
        self._conductor = Conductor(self._chance("conductor"))
        self._curtain = anyio.Event()

    async def run(self, seconds: float) -> Report:
        began_at = time.time()
        async with asyncpg.create_pool(self._server.url(), min_size=0, max_size=80) as connections:
            inserters = [self._inserter(number, connections) for number in range(INSERTERS_A_QUEUE * len(QUEUES))]
            async with self._watching(began_at):
                async with anyio.create_task_group() as acting:
                    acting.start_soon(self._let_curtain_fall, seconds)
                    acting.start_soon(self._faults.run, connections, self._curtain)
                    for inserter in inserters:
                        acting.start_soon(inserter.run, self._curtain)
                    acting.start_soon(self._conductor.run, _groups(inserters), self._curtain)
                ended_at = time.time()
                if not self._watch.found.is_set():
                    await self._settle(connections)
            await to_thread.run_sync(self._supervisors.scrape)
            evidence = Evidence(
                self._seed, self._planted, began_at, ended_at,
                self._ledger, self._supervisors, self._watch, self._faults, self._grace, self._stalls,
            )  # fmt: skip
            async with connections.acquire() as connection:
                return await audit(connection, evidence)

    @asynccontextmanager
    async def _watching(self, began_at: float) -> AsyncIterator[None]:
        async with anyio.create_task_group() as around:
            around.start_soon(self._watch.run)
            around.start_soon(self._stalls.feel_own)
            around.start_soon(self._stalls.feel_database, self._server.url())
            around.start_soon(self._tell_progress, began_at)
            yield
            around.cancel_scope.cancel()

    async def _let_curtain_fall(self, seconds: float) -> None:
        """After the time, at Ctrl-C or SIGTERM, or when a planted bug is found."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(self._wait_interrupted, waiting.cancel_scope)
                if self._planted:
                    await self._watch.found.wait()
                    waiting.cancel_scope.cancel()
        self._curtain.set()

    async def _wait_interrupted(self, waiting: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)
        waiting.cancel()

    async def _settle(self, connections: Connections) -> None:
        """Waits until nothing is left to run, while the watch looks on."""

        async def is_empty() -> bool:
            async with connections.acquire() as connection:
                return not await connection.fetchval("select count(*) from pushq.jobs_unfinished")

        with suppress(AssertionError):  # what is left then is reported as lost
            await eventually(is_empty, within=SETTLES_WITHIN)

    async def _tell_progress(self, began_at: float) -> None:
        while True:
            await anyio.sleep(10)
            await to_thread.run_sync(self._supervisors.scrape)
            click.echo(
                f"{time.time() - began_at:5.0f} s  {sum(self._ledger.by_kind.values())} jobs  "
                f"{self._watch.transitions['gate opened']} openings seen  {sum(self._faults.done.values())} faults  "
                f"{len(self._watch.late)} late",
                err=True,
            )

    def _inserter(self, number: int, connections: Connections) -> Inserter:
        psql = [str(self._server.bin_directory / "psql"), self._server.url(), "-Xqc"]
        queue = QUEUES[number % len(QUEUES)]
        return Inserter(queue, self._chance(f"inserter {number}"), connections, self._ledger, self._conductor, psql)

    def _chance(self, whose: str) -> random.Random:
        return random.Random(f"{self._seed} {whose}")


def _groups(inserters: Sequence[Inserter]) -> list[list[Solo]]:
    """One for each supervisor, of those whose queues it alone serves."""
    return [[one.solo for one in inserters if one.queue in own_queues(part)] for part in PARTS]


if __name__ == "__main__":
    main()
