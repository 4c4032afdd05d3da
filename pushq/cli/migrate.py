"""pushq migrate."""

from __future__ import annotations

import sys

import anyio
import click

from pushq.cli.options import load_settings
from pushq.database.migrate import migrate as apply_missing
from pushq.database.migrate import migrations, repair
from pushq.database.roles import grants
from pushq.database.schema import faults
from pushq.database.url import describe


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="Only report what is missing or wrong: exit code 0 if nothing is, else 1.",
)
@click.option(
    "--sql", "print_sql", is_flag=True, help="Print the migrations, for a tool of your own. Needs no database."
)
@click.option(
    "--roles",
    "print_roles",
    is_flag=True,
    help="Print the grants for five roles: producer, worker, observer, admin, tenant.",
)
def migrate(check: bool, print_sql: bool, print_roles: bool) -> None:
    """Prepares the database: applies missing migrations, each in a transaction.

    Any number may run at once, for example one in each deployed replica, and take turns.

    \b
      PUSHQ_DATABASE_URL=postgresql://localhost/app pushq migrate
      pushq migrate --check || echo 'migrate first'
      pushq migrate --roles | psql -v ON_ERROR_STOP=1 app
    """
    if print_sql:
        click.echo("\n\n".join(f"begin;\n\n{one.sql.rstrip()}\n\ncommit;" for one in migrations()))
    elif print_roles:
        click.echo(grants(), nl=False)
    elif check:
        settings = load_settings()
        found = anyio.run(faults, settings.url)
        for fault in found or ["is up to date."]:
            click.echo(f"{describe(settings.url)} {fault}")
        sys.exit(1 if found else 0)
    else:
        settings = load_settings()
        applied = anyio.run(apply_missing, settings.listen_url)
        repaired = anyio.run(repair, settings.listen_url)
        did = [f"{verb} {', '.join(names)}" for verb, names in (("applied", applied), ("repaired", repaired)) if names]
        click.echo(f"{describe(settings.url)}: " + ("; ".join(did) or "up to date"))
