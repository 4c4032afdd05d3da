"""pushq demo."""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import anyio
import click

from pushq.cli.output import Progress, table
from pushq.database.migrate import migrate
from pushq.database.session import Session
from pushq.demo import Demo
from pushq.demo.files import find_files
from pushq.local.interrupts import Interrupts
from pushq.local.server import EmbeddedServer
from pushq.local.supervisor import supervising

SHOWN = ("pushq_jobs_finished_total", "pushq_job_retries_total", "pushq_wakeups_total", "pushq_supervisors")


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--keep", is_flag=True, help="Keep running until Ctrl-C, for jobs inserted by hand.")
def demo(folder: Path | None, keep: bool) -> None:
    """Shows pushq at work on a PostgreSQL of its own: a job for each file of FOLDER.

    Without FOLDER, the files are the sources of Python's standard library. Files that do not
    decode fail, and are retried.

    \b
      pushq demo
      pushq demo ~/src --keep
    """
    files = find_files(folder or Path(sysconfig.get_path("stdlib")))
    progress = Progress()
    try:
        progress.show("starting PostgreSQL")
        with Interrupts() as interrupts, EmbeddedServer(durable=True) as server:
            with interrupts.allowed():
                anyio.run(migrate, server.url())
            progress.show("starting the supervisor")
            with (
                supervising(
                    server.url(),
                    "pushq.demo.tasks:tasks",
                    "--concurrency=4",
                    f"--processes={min(2, os.cpu_count() or 1)}",
                ) as (supervisor, port),
                interrupts.allowed(),
            ):
                anyio.run(_show, server, supervisor, port, files, progress, keep)
    except KeyboardInterrupt:
        progress.end()
        click.echo("stopped; no process is left running", err=True)
        sys.exit(0 if keep else 130)


async def _show(
    server: EmbeddedServer,
    supervisor: subprocess.Popen[bytes],
    port: int,
    files: Sequence[Path],
    progress: Progress,
    keep: bool,
) -> None:
    session = Session(server.url(), "pushq demo")
    demo = Demo(session, supervisor, port)
    click.echo(f"{len(files):,} jobs, one a file: insert into pushq.jobs (task, payload) select …")
    await _run(demo, files, progress)
    click.echo("\n" + table(await demo.summary()))
    click.echo("All jobs came at once, so most waited for a worker. Jobs of files that do not decode were retried.")
    await _show_pick_ups(demo)
    await _show_metrics(demo)
    _show_psql(server, keep=keep)
    await session.close()
    if keep:
        await anyio.sleep_forever()


async def _run(demo: Demo, files: Sequence[Path], progress: Progress) -> None:
    began = anyio.current_time()
    await demo.insert(files)
    async for counts in demo.watch(len(files)):
        rate = counts.finished / max(anyio.current_time() - began, 0.001)
        progress.show(f"{counts.finished:,} of {counts.total:,} finished, {counts.failed:,} failed, {rate:,.0f} jobs/s")
    progress.end()


async def _show_pick_ups(demo: Demo) -> None:
    waits = [1000 * seconds for seconds in await demo.pick_ups(20)]
    click.echo(
        "\nThen, idle, 20 single INSERTs. From INSERT to the start of the job, commit included: "
        f"{statistics.median(waits):.1f} ms (median), {max(waits):.1f} ms (slowest)."
    )


async def _show_metrics(demo: Demo) -> None:
    click.echo(f"\n{demo.metrics_url} shows, among others:")
    for line in await demo.metrics():
        if line.startswith(SHOWN):
            click.echo(f"  {line}")


def _show_psql(server: EmbeddedServer, *, keep: bool) -> None:
    values = f"""'text.lines', '{{\\"path\\": \\"{Path(__file__)}\\"}}'"""
    command = f'-c "insert into pushq.jobs (task, payload) values ({values})"'  # noqa: S608 - only printed
    if keep:
        url = shlex.quote(server.url())
        click.echo(f"\nInsert a job by hand, and see the row:\n  {server.bin_directory / 'psql'} {url} {command}")
        click.echo(f"  DATABASE_URL={url} pushq jobs\nCtrl-C ends the demo.")
    else:
        click.echo(f"\nInsert a job by hand while `pushq demo --keep` runs, at the printed URL:\n  psql URL {command}")
