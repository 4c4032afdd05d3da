"""`make torture-drain`: stops supervisors at random instants of whatever they are at, and looks at what they leave.

Theory of operation. A few lanes, each with a PostgreSQL of its own, play one run after the other. A run follows a plan
that its seed draws: a real supervisor is at something, and gets a signal, or two. It must be gone in time, whatever the
database does, with nothing claimed since, nothing charged and nothing left behind. Then a fresh supervisor runs what is
left, and everything that was inserted must have been run to its end. A record makes it go on where it was stopped.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory

import click

from pushq.local.server import EmbeddedServer
from tests.support.record import Record
from tests.support.server import Server
from tests.torture_drain.plan import SITUATIONS, Plan, Situation
from tests.torture_drain.record import by_seed, report
from tests.torture_drain.run import Ended, run

TELLS_EVERY = 15.0


@click.command()
@click.option("--runs", default=600, show_default=True, type=click.IntRange(1), help="How many seeds.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="The first of them.")
@click.option(
    "--situation",
    "situations",
    multiple=True,
    type=click.Choice(Situation, case_sensitive=False),
    help="Only this; repeatable.",
)
@click.option("--lanes", default=3, show_default=True, type=click.IntRange(1, 64), help="How many runs at a time.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append each run to this file, and do not repeat those that it holds.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run, in place of the table.")
def main(runs: int, seed: int, situations: Sequence[Situation], lanes: int, record: Path | None, as_json: bool) -> None:
    """Stops supervisors at random instants. Exit code 1: one was not gone in time, or broke a promise."""
    kept = Record(record)
    seeds, before = range(seed, seed + runs), by_seed(kept.runs)
    battery = Battery(kept, [Plan.drawn(one, tuple(situations) or SITUATIONS) for one in seeds if one not in before])
    # A shell's background job has SIGINT ignored, and so has whoever inherits that: it would be lost on one who starts.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        battery.run(lanes)
    except KeyboardInterrupt:
        click.echo("stopping after the runs that are under way; the record keeps them", err=True)
        battery.stop()
    done = [run for one, run in sorted(by_seed(kept.runs).items()) if one in seeds]
    click.echo("\n".join(map(json.dumps, done)) if as_json else report(done))
    sys.exit(any(one["violations"] for one in done))


class Battery:
    """The runs that are left to do, and the lanes that do them."""

    def __init__(self, record: Record, plans: Sequence[Plan]) -> None:
        self._record = record
        self._plans = SimpleQueue[Plan]()
        for plan in plans:
            self._plans.put(plan)
        self._count = len(plans)
        self._lanes: list[threading.Thread] = []
        self._is_stopping = threading.Event()
        self._began = time.monotonic()
        self._told_at = self._began

    def run(self, lanes: int) -> None:
        # A lane is a thread of its own for as long as its server lives, which dies with the thread that started it.
        self._lanes = [threading.Thread(target=self._play) for _ in range(min(lanes, self._count))]
        for lane in self._lanes:
            lane.start()
        for lane in self._lanes:
            lane.join()

    def stop(self) -> None:
        self._is_stopping.set()
        for lane in self._lanes:
            lane.join()

    def _play(self) -> None:
        with EmbeddedServer() as server, TemporaryDirectory() as directory:
            template = asyncio.run(Server(server.url(), str(server.bin_directory), "drain").make_template())
            while not self._is_stopping.is_set():
                try:
                    plan = self._plans.get_nowait()
                except Empty:
                    return
                home = Path(directory) / str(plan.seed)
                home.mkdir()
                ended = asyncio.run(run(server, template, plan, home))
                self._record.append(ended.as_dict())
                self._tell(ended, home)

    def _tell(self, ended: Ended, home: Path) -> None:
        for violation in ended.violations:
            click.echo(f"{ended.plan}: {violation}", err=True)
        if ended.violations:
            click.echo("".join(f"    {line}\n" for line in _last_words(home)), err=True)
        if time.monotonic() - self._told_at > TELLS_EVERY:
            self._told_at = time.monotonic()
            done = self._count - self._plans.qsize()
            left = (self._told_at - self._began) / done * self._plans.qsize()
            click.echo(f"{done} of {self._count} runs, {left / 60:.0f} minutes left", err=True)


def _last_words(home: Path) -> list[str]:
    return [line for log in sorted(home.glob("l*")) for line in [f"{log.name}:", *log.read_text().splitlines()[-25:]]]


if __name__ == "__main__":
    main()
