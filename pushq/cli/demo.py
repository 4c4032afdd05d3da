"""pushq demo."""

from __future__ import annotations

import os
import statistics
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import anyio
import click

from pushq.cli.output import Progress, table
from pushq.demo import Demo, fetch_metrics, find_files, open_demo, prepare, serving, supervising

SHOWN = ("pushq_jobs_finished_total", "pushq_job_retries_total", "pushq_wakeups_total", "pushq_supervisors")


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C, to insert jobs by hand.")
def demo(folder: Path | None, keep: bool) -> None:
    """Shows pushq at work, with a PostgreSQL of its own: one job a file of FOLDER.

    Without FOLDER: the Python standard library's own sources. Files that do not decode fail, and are retried.
    """
    files = find_files(folder or Path(sysconfig.get_path("stdlib")))
    progress = Progress()
    try:
        with serving(progress.show) as server:
            anyio.run(prepare, server)
            progress.show("starting the supervisor")
            with supervising(server, processes=min(2, os.cpu_count() or 1)) as (supervisor, port):
                anyio.run(_show, server, supervisor, port, files, progress, keep)
    except KeyboardInterrupt:
        progress.end()
        click.echo("stopped; nothing is left running", err=True)
        sys.exit(0 if keep else 130)


async def _show(server, supervisor, port, files: Sequence[Path], progress: Progress, keep: bool) -> None:  # type: ignore[no-untyped-def]
    demo = await open_demo(server, supervisor, port)
    began = anyio.current_time()
    click.echo(f"{len(files):,} jobs, one a file: insert into pushq.jobs (task, payload) select …")
    await demo.insert(files)
    async for counts in demo.watch(len(files)):
        seconds = max(anyio.current_time() - began, 0.001)
        progress.show(
            f"{counts.finished:,} of {counts.total:,} finished, {counts.failed:,} failed, "
            f"{counts.finished / seconds:,.0f} jobs/s"
        )
    progress.end()
    click.echo("\n" + table(await demo.summary()))
    waits = await demo.pick_ups(20)
    click.echo(
        f"\nAnd then, idle, 20 single INSERTs: from INSERT to started {1000 * statistics.median(waits):.1f} ms (median), "
        f"{1000 * max(waits):.1f} ms (slowest)."
    )
    await _show_metrics(demo)
    _show_psql(demo, keep)
    if keep:
        await anyio.sleep_forever()


async def _show_metrics(demo: Demo) -> None:
    click.echo(f"\nhttp://127.0.0.1:{demo.port}/metrics says, among others:")
    for line in (await fetch_metrics(demo.port)).splitlines():
        if line.startswith(SHOWN):
            click.echo(f"  {line}")


def _show_psql(demo: Demo, keep: bool) -> None:
    click.echo("\nInsert one by hand" + (":" if keep else ", while `pushq demo --keep` runs:"))
    psql = demo.server.bin_directory / "psql"
    statement = f"""insert into pushq.jobs (task, payload) values ('text.lines', '{{"path": "{__file__}"}}')"""
    click.echo(
        f'  {psql if keep else "psql"} "{demo.url if keep else "$URL"}" -c "{statement.replace(chr(34), chr(92) + chr(34))}"'
    )
    if keep:
        click.echo(f"See it:\n  DATABASE_URL='{demo.url}' pushq jobs\nCtrl-C ends it.")
