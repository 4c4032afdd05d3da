"""pushq supervise, and pushq sweep, the sweeper by hand."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from typing import NoReturn

import anyio
import click

from pushq.cli.options import HTTP, LOGGING, as_json, load_settings, settings_options
from pushq.cli.output import Progress
from pushq.database.migrate import check_schema
from pushq.database.session import Session
from pushq.errors import DatabaseTrouble, PushqError
from pushq.exporter.lines import printable
from pushq.exporter.logs import log_events
from pushq.exporter.port import bind, import_server
from pushq.place import refuse_misnamed
from pushq.supervisor import Supervisor
from pushq.supervisor.signals import obeyed
from pushq.sweeper import Sweeper, Swept
from pushq.sweeper.store import HeldUp, Store

_SWEEP = "pushq sweep"
LONG_WAIT = 3.0
"""Seconds that a sweep waits for a lock before it says so."""
SUPERVISE = (
    "queues", "concurrency", "processes", *HTTP, "poll_interval", "wake", "heartbeat_interval", "lease",
    "shutdown_timeout", "sweep_interval", "retention", "artifact_bytes", "artifacts_per_job",
    "artifact_bytes_per_day", "webhooks", "webhook_allow", *LOGGING,
)  # fmt: skip


@click.command()
@click.argument("tasks", metavar="MODULE:TASKS")
@settings_options(*SUPERVISE)
def supervise(tasks: str, **flags: object) -> None:
    """Runs jobs of the tasks registered in MODULE:TASKS.

    SIGTERM, SIGHUP, SIGQUIT and Ctrl-C drain: the supervisor claims no more jobs, gives running jobs time to end, and
    requeues the rest. A second SIGTERM, SIGQUIT or Ctrl-C stops at once.

    \b
      pushq supervise app.jobs:tasks
      pushq supervise app.jobs:tasks --queue mail --queue default --concurrency 50 --processes 2
    """
    settings = load_settings(**flags)
    refuse_misnamed(tasks)  # a pool would find it too, but needs the database first

    async def run() -> None:
        with anyio.open_signal_receiver(*obeyed()) as signals:
            log = log_events(settings.log_format, settings.log_level, settings.log_errors, source="supervisor")
            with log, bind(settings.http_host, settings.http_port) as listening:
                await Supervisor(settings, tasks, listening).run(signals)
            _end_at_once()

    import_server()  # now: a later import, even in a thread, would delay the loop that sends the heartbeat
    anyio.run(run)


def _end_at_once() -> NoReturn:
    """Ends the drained process while signals are still received, so that no late signal turns success into failure.

    The interpreter's own end may take a second, of the three after the grace period.
    """
    os._exit(0)


@click.command()
@settings_options("lease", "heartbeat_interval", "retention")
@as_json
def sweep(as_json: bool, **flags: object) -> None:
    """Watches the supervisors for one lease, sweeps once, and shows the result.

    Supervisors sweep by themselves. Use this command if none is running, after a host has died for good, or from cron
    as the owner of the tables. Supervisors with a lease longer than --lease are not judged. A lock that holds the
    sweep up for seconds is named on standard error, with its holder.

    Exit code 1 if a chore failed.

    \b
      pushq sweep
      pushq sweep --lease 60 --json
    """
    settings = load_settings(**flags)

    async def run() -> Swept:
        await check_schema(settings.url)
        session = Session(settings.url, _SWEEP, deadline=60)
        sweeper = Sweeper(Store(session), retention=settings.retention)
        try:
            await _watch(sweeper, settings.lease)
            return await sweeper.sweep_whole()
        finally:
            await session.close()

    swept = asdict(anyio.run(_telling_what_holds_up, settings.url, run))
    if as_json:
        click.echo(json.dumps(swept))
    else:
        for what, value in swept.items():
            click.echo(f"{what:9} {', '.join(value) or '-' if isinstance(value, tuple) else value}")
    sys.exit(1 if swept["troubles"] else 0)


async def _telling_what_holds_up(url: str | None, sweep: Callable[[], Awaitable[Swept]]) -> Swept:
    swept: Swept | PushqError
    async with anyio.create_task_group() as around:
        around.start_soon(_tell_what_holds_up, url)
        try:
            swept = await sweep()
        except PushqError as error:  # not raised here, where it would become a group
            swept = error
        around.cancel_scope.cancel()
    if isinstance(swept, PushqError):
        raise swept
    return swept


async def _tell_what_holds_up(url: str | None) -> None:
    """Names each lock for which the sweep waits, once."""
    told = set[HeldUp]()
    session = Session(url, f"{_SWEEP}: locks")
    try:
        while True:
            await anyio.sleep(LONG_WAIT)
            with suppress(DatabaseTrouble):  # the sweep itself tells of that
                for held_up in await Store(session).holders(_SWEEP, LONG_WAIT):
                    if held_up not in told:
                        told.add(held_up)
                        Progress().end()
                        what = f"a lock of {held_up.relation}, held by" if held_up.relation else "the transaction of"
                        click.echo(f"pushq: The sweep waits for {what} {printable(held_up.holder)}.", err=True)
    finally:
        await session.close()


async def _watch(sweeper: Sweeper, lease: float) -> None:
    """Notes which supervisors send heartbeats."""
    progress = Progress()
    await sweeper.observe()
    until = anyio.current_time() + lease
    while (left := until - anyio.current_time()) > 0:
        progress.show(f"watching the supervisors for {left:.0f} more seconds")
        await anyio.sleep(min(1.0, left))
        await sweeper.observe()
    progress.end()
