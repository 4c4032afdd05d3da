"""pushq bench."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import click

from pushq.bench.ground import EMBEDDED_SETTINGS
from pushq.bench.insert import by_clients
from pushq.bench.measure import measure
from pushq.bench.peers.contest import contests
from pushq.bench.peers.installed import Installed
from pushq.bench.pgbench import Pgbench
from pushq.bench.plot import draw_rates
from pushq.bench.report import Report
from pushq.bench.run import Record, Scope, Teller
from pushq.bench.scenarios import SCENARIOS, Scenario, choose
from pushq.cli.options import load_settings
from pushq.cli.output import Progress, show_rows, table
from pushq.database.url import describe
from pushq.errors import UsageError
from pushq.local.interrupts import Interrupts
from pushq.local.server import EmbeddedServer


@click.command()
@click.argument("names", nargs=-1, metavar="[SCENARIO]...")
@click.option("--list", "lists", is_flag=True, help="List the scenarios, with figures and durations.")
@click.option("--long", "is_long", is_flag=True, help="Every scenario, up to 10 M rows and 10 minutes.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Rounds of each scenario, however long.  [5]")
@click.option("--minutes", type=click.FloatRange(0.05, 600), help="How long `pinned` pins the horizon.  [1, long 10]")
@click.option("--scale", type=click.FloatRange(0.001, 10), default=1.0, help="Multiplies jobs and seconds.  [1]")
@click.option("--embedded", is_flag=True, help="Start a PostgreSQL, whatever the settings say.")
@click.option("--peers", type=click.Path(file_okay=False, path_type=Path), help="Compare with peers, installed there.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Append each round to this file.")
@click.option("--resume", is_flag=True, help="Skip the rounds in the record.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw INSERTs/s by clients, as SVG.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with the values of every round.")
def bench(
    names: tuple[str, ...],
    lists: bool,
    is_long: bool,
    rounds: int | None,
    minutes: float | None,
    scale: float,
    embedded: bool,
    peers: Path | None,
    record: Path | None,
    resume: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measures pushq on this machine, each figure with a limit measured in the same round.

    Uses the server of PUSHQ_DATABASE_URL, makes databases pushq_bench_… there, and drops them. Without a URL, starts a
    PostgreSQL. The default run ends in 3 minutes.

    With --peers DIRECTORY, installs Graphile Worker, pg-boss, PgQueuer and awa there from their registries, and
    compares pushq with each, for an hour.

    \b
      pushq bench
      pushq bench drain pick-up --rounds 9
      pushq bench --long --record bench.jsonl --resume
      pushq bench --peers build/peers drain bulk
    """
    known = contests(Installed(peers)) if peers else SCENARIOS
    if lists:
        _list(known, as_json=as_json)
        return
    scenarios = choose(known, names, everything=is_long)
    if resume and record is None:
        raise UsageError("--resume needs a record: name the file with --record FILE.")
    scope = Scope(rounds or 5, is_long, minutes, scale)
    kept = Record.resumed(record) if record and resume else Record(record)
    if peers:
        _install(peers)
    has_all_the_time = bool(is_long or rounds or peers)
    report = _measure(scenarios, scope, kept, embedded=embedded, has_all_the_time=has_all_the_time)
    if report is None:
        click.echo("stopped before the first measurement; no process is left running", err=True)
        sys.exit(130)
    _show(report, as_json=as_json)
    if plot:
        _plot(report, plot)
    if report.failures:
        raise report.failures[0]
    sys.exit(130 if report.was_stopped else 0)


def _install(peers: Path) -> None:
    progress = Progress()
    try:
        Installed(peers).install(progress.show)
    finally:
        progress.end()


def _list(scenarios: Sequence[Scenario], *, as_json: bool) -> None:
    rows = [
        {
            "scenario": scenario.name,
            "measures": scenario.measures,
            "seconds": scenario.seconds,
            "--long, minutes": scenario.minutes_long,
            "by default": "yes" if scenario.by_default else "",
        }
        for scenario in scenarios
    ]
    show_rows(rows, list(rows[0]), as_json=as_json, empty="")


def _measure(
    scenarios: Sequence[Scenario], scope: Scope, record: Record, *, embedded: bool, has_all_the_time: bool
) -> Report | None:
    """The report; None if stopped before the first measurement."""
    progress = Progress()
    try:
        with Interrupts() as interrupts, _server(progress, embedded=embedded) as (url, pgbench), interrupts.allowed():
            return anyio.run(
                lambda: measure(
                    url,
                    pgbench,
                    scenarios,
                    scope,
                    record=record,
                    teller=_teller(progress),
                    has_all_the_time=has_all_the_time,
                )
            )
    except KeyboardInterrupt:
        return None
    finally:
        progress.end()


@contextmanager
def _server(progress: Progress, *, embedded: bool) -> Iterator[tuple[str, Pgbench]]:
    """The URL of the user's server, or of a server that lives as long as the block, and its pgbench."""
    url = load_settings().listen_url
    if url and not embedded:
        pgbench = Pgbench.find()
        click.echo(f"{describe(url)} names the server; databases pushq_bench_… are made there and dropped.", err=True)
        yield url, pgbench
        return
    progress.show("starting PostgreSQL")
    with EmbeddedServer(durable=True, settings=EMBEDDED_SETTINGS) as server:
        yield server.url(), Pgbench.find(server.bin_directory)


def _teller(progress: Progress) -> Teller:
    """An overwritten line on a terminal; elsewhere a line for each round."""
    if sys.stderr.isatty():
        return Teller(show=progress.show)
    return Teller(say=lambda line: click.echo(line, err=True))


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
        return
    for what, facts in (("machine", report.machine), ("server", report.settings)):
        click.echo(f"{what:8} " + ", ".join(f"{name} {fact}" for name, fact in facts.items()))
    for scenario, figures in report.by_scenario().items():
        click.echo(f"\n{scenario}\n" + table([figure.as_row() for figure in figures]))
    click.echo(f"\n{report.verdicts}, in {report.took.total_seconds():.0f} s. The machine: {report.run.noise}.")
    for remark in report.remarks:
        click.echo(remark)


def _plot(report: Report, file: Path) -> None:
    curves = by_clients(report.figures)
    if not any(len(curve) > 1 for curve in curves.values()):
        raise UsageError(
            f"There is nothing to draw in {file}: only `insert --long` measures several numbers of clients."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(draw_rates(curves))
