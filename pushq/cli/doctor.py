"""pushq doctor."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import anyio
import click

from pushq.cli.options import as_json, load_settings, settings_options
from pushq.database.url import describe
from pushq.desk.doctor import Finding, examine
from pushq.exporter.lines import printable


@click.command()
@settings_options("retention")
@as_json
def doctor(as_json: bool, **flags: object) -> None:
    """Examines the database: schema, rights, settings, publications, transactions, days, listeners, supervisors,
    schedules, jobs.

    Each finding has its remedy. Exit code 0 if nothing was found, else 1. Changes nothing.

    \b
      pushq doctor
      pushq doctor --json | jq 'select(.is_fine | not)'
    """
    settings = load_settings(**flags)
    findings = anyio.run(examine, settings.url, settings.retention)
    if as_json:
        for finding in findings:
            click.echo(json.dumps(asdict(finding)))
    else:
        click.echo(describe(settings.url))
        for finding in findings:
            _show(finding)
    sys.exit(0 if all(finding.is_fine for finding in findings) else 1)


def _show(finding: Finding) -> None:
    click.echo(f"  {'ok' if finding.is_fine else '!!'}  {finding.check:14} {printable(finding.says)}")
    if finding.remedy:
        click.echo(f"{'':21}→ {printable(finding.remedy)}")
