"""`make torture`: random faults against real processes and a real server, and a checker that trusts neither.

A run follows a schedule, which its seed draws. One that fails leaves its schedule and its logs in build/torture, from
where `--replay` plays it again. Each run is appended to a record, and without `--seed` the next go on where it ends.
`--planted` puts a bug in, and ends at the first run that finds it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import click

from pushq.local.server import EmbeddedServer
from tests.support.packages import unpacked
from tests.support.record import Record
from tests.torture.hosts import Clock
from tests.torture.planted import BUGS
from tests.torture.record import next_seed, report
from tests.torture.run import run
from tests.torture.schedule import JOBS, Schedule

SERVER = {"wal_level": "logical", "max_prepared_transactions": "5", "max_replication_slots": "10"}
KEPT = Path("build/torture")


@click.command()
@click.option("--runs", default=10, show_default=True, type=click.IntRange(0), help="How many seeds; 0 only reports.")
@click.option("--seed", type=click.IntRange(0), help="The first of them.  [the one after the record's last, else 1]")
@click.option("--jobs", default=JOBS, show_default=True, type=click.IntRange(10), help="Jobs a run.")
@click.option("--replay", type=click.Path(path_type=Path), help="Play this schedule once, in place of seeds.")
@click.option("--planted", type=click.Choice(list(BUGS)), help="A bug to find; ends at the run that finds it.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Append each run to this file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run.")
def main(
    runs: int,
    seed: int | None,
    jobs: int,
    replay: Path | None,
    planted: str | None,
    record: Path | None,
    as_json: bool,
) -> None:
    """Tries to break the guarantees of pushq's README by random faults. Exit code 1: it did; 3: a run was void."""
    kept = Record(None if replay else record)
    before, first = len(kept.runs), next_seed(kept.runs) if seed is None else seed
    try:
        schedules = [Schedule.read(replay)] if replay else [Schedule.drawn(first + n, jobs) for n in range(runs)]
    except ValueError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    with suppress(KeyboardInterrupt):
        _torture(schedules, kept, planted, as_json=as_json)
    if not as_json and not replay:
        click.echo(report(kept.runs))
    tried = kept.runs[before:]
    sys.exit(1 if any(run["violations"] for run in tried) else 3 * any(run["toothless"] for run in tried))


def _torture(schedules: Sequence[Schedule], record: Record, planted: str | None, *, as_json: bool) -> None:
    if not schedules:
        return
    with EmbeddedServer(durable=True, settings=SERVER) as server, TemporaryDirectory() as directory:
        clock = _clock(Path(directory))
        for number, schedule in enumerate(schedules, 1):
            home = Path(directory) / str(number)
            home.mkdir()
            schedule.write(KEPT / f"{schedule.seed}.json")
            ended = anyio.run(run, server, schedule, home, planted, clock)
            record.append(ended.as_dict())
            click.echo(json.dumps(ended.as_dict()) if as_json else str(ended))
            if ended.violations or ended.toothless:
                _keep(schedule, home)
            shutil.rmtree(home)
            if ended.violations and planted:
                break


def _clock(directory: Path) -> Clock | None:
    files = unpacked("libfaketime")
    library = next(files.rglob("libfaketimeMT.so*"), None) if files else None
    if library is None:
        click.echo("no libfaketime to be had: the clock is not stepped, and runs that would step it are void", err=True)
        return None
    return Clock(library, directory)


def _keep(schedule: Schedule, home: Path) -> None:
    logs = KEPT / str(schedule.seed)
    shutil.rmtree(logs, ignore_errors=True)
    shutil.copytree(home, logs)
    click.echo(f"its logs are kept in {logs}; again: make torture REPLAY={logs}.json", err=True)


if __name__ == "__main__":
    main()
