"""pushq exporter: the metrics, without a supervisor."""

from __future__ import annotations

import signal

import anyio
import click

from pushq.cli.options import HTTP, LOGGING, load_settings, settings_options
from pushq.database.migrate import check_schema
from pushq.exporter.figures import ProcessFigures
from pushq.exporter.http import application, serve
from pushq.exporter.logs import log_events
from pushq.exporter.metrics import Exposition, session_for_scrapes
from pushq.exporter.port import bind
from pushq.exporter.store import Store
from pushq.supervisor.signals import STOP


@click.command()
@settings_options(*HTTP, *LOGGING)
def exporter(**flags: object) -> None:
    """Serves /metrics, /healthz and /readyz, and runs no jobs.

    The counters are the same as every supervisor's, so a single scrape target is enough.

    \b
      pushq exporter
      PUSHQ_HTTP_TOKEN=secret pushq exporter --http-host 0.0.0.0

    With a token, /metrics requires `Authorization: Bearer secret`. Without a token, /metrics is served only to this
    machine.
    """
    settings = load_settings(**flags)

    async def run() -> None:
        await check_schema(settings.url)
        session = session_for_scrapes(settings.url, "pushq exporter")
        exposition = Exposition(Store(session), ProcessFigures)
        token = settings.http_token.get_secret_value() if settings.http_token else None
        with bind(settings.http_host, settings.http_port) as listening:
            web = application(exposition, lambda: None, token, listening)
            click.echo(f"http://{settings.http_host}:{listening.getsockname()[1]}/metrics", err=True)
            with anyio.open_signal_receiver(*STOP, signal.SIGHUP) as signals:
                async with anyio.create_task_group() as group:
                    group.start_soon(serve, listening, web)
                    await anext(signals)
                    group.cancel_scope.cancel()
        await session.close()

    with log_events(settings.log_format, settings.log_level, source="exporter"):
        anyio.run(run)
