"""pushq webhooks."""

from __future__ import annotations

import json
import sys
from ipaddress import ip_network
from typing import TextIO
from uuid import UUID

import anyio
import click

from pushq.cli.desk import at_desk
from pushq.cli.jobs import list_jobs, retry
from pushq.cli.options import ListsByItself, WholeNumber, as_json, load_settings, settings_options
from pushq.cli.output import Row, show_rows
from pushq.desk import Desk
from pushq.errors import UsageError
from pushq.job import Status
from pushq.webhooks import QUEUE
from pushq.webhooks.body import SHAPES
from pushq.webhooks.trial import try_out

LISTED = ("webhook", "tenant", "queue", "task", "statuses", "body", "url", "paused")


@click.group(cls=ListsByItself)
def webhooks() -> None:
    """Lists webhooks and failed deliveries, delivers again, tries receivers. Without a command: lists webhooks.

    \b
      pushq webhooks test https://example.com/hook
      pushq webhooks dead
      pushq webhooks replay --tenant acme
    """


@webhooks.command("list")
@as_json
def list_webhooks(as_json: bool) -> None:
    """Lists the subscriptions, the newest first, without their secrets. They are rows of pushq.webhooks.

    \b
      pushq webhooks list
      pushq webhooks list --json
    """
    rows = at_desk(lambda desk: desk.list_webhooks())
    shown = rows if as_json else [_for_people(row) for row in rows]
    show_rows(shown, LISTED, as_json=as_json, empty="There are no webhooks.")


def _for_people(row: Row) -> Row:
    statuses = ", ".join(row["statuses"])
    return {**row, "webhook": row["id"], "tenant": row["tenant_id"], "statuses": statuses, "paused": row["paused_at"]}


_tenant = click.option("--tenant", help="Only deliveries of this tenant_id.")
_job = click.option("--job", type=click.UUID, metavar="ID", help="Only deliveries that tell of this job.")


@webhooks.command()
@_tenant
@_job
@click.option(
    "--limit", type=WholeNumber(1, 100_000), metavar="N", default=50, show_default=True, help="The most to list."
)
@as_json
@click.pass_context
def dead(context: click.Context, tenant: str | None, job: UUID | None, limit: int, as_json: bool) -> None:
    """Lists deliveries that were given up: failed jobs of the queue pushq.webhooks, the newest first.

    \b
      pushq webhooks dead
      pushq webhooks dead --job 0192f0c1-…
    """
    context.invoke(list_jobs, **_given_up(tenant, job), limit=limit, whole=True, as_json=as_json)


@webhooks.command()
@click.argument("delivery_ids", type=click.UUID, nargs=-1, metavar="[ID]...")
@_tenant
@_job
@click.option("--all", "every", is_flag=True, help="All that were given up.")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask before many deliveries are replayed.")
@as_json
@click.pass_context
def replay(
    context: click.Context,
    delivery_ids: tuple[UUID, ...],
    tenant: str | None,
    job: UUID | None,
    every: bool,
    is_sure: bool,
    as_json: bool,
) -> None:
    """Sends deliveries again that were given up, under the same webhook-id: by id, or all that the options choose.

    A delivery that has not failed is left as it is. Exit code 1 if a delivery named by id is not replayed; exit code 2,
    and nothing is replayed, if an id is no delivery's.

    \b
      pushq webhooks replay 0192f0c1-… 0192f0c2-…
      pushq webhooks replay --job 0192f0c3-…
      pushq webhooks replay --tenant acme
      pushq webhooks replay --all --yes
    """
    if bool(delivery_ids) == bool(every or tenant or job):
        raise click.UsageError("Name deliveries by id, or choose them by --tenant, --job or --all.")
    if delivery_ids:
        _replay(delivery_ids, as_json)
    else:
        context.invoke(retry, **_given_up(tenant, job), is_sure=is_sure, as_json=as_json)


def _given_up(tenant: str | None, job: UUID | None) -> dict[str, str | None]:
    """The filter that finds deliveries which have failed. A delivery's correlation_id is the job that it tells of."""
    return {"status": Status.FAILED, "queue": QUEUE, "tenant": tenant, "correlation_id": str(job) if job else None}


def _replay(delivery_ids: tuple[UUID, ...], as_json: bool) -> None:
    """Replays each delivery and shows the results. Exit code 1 unless all are queued."""

    async def change(desk: Desk) -> list[Row]:
        deliveries = await desk.deliveries_among(delivery_ids)
        if others := [str(one) for one in delivery_ids if one not in deliveries]:
            are = "is no delivery" if len(others) == 1 else "are no deliveries"
            raise UsageError(
                f"{', '.join(others)} {are}; nothing was replayed. To replay the deliveries of a job: --job ID."
            )
        return [{"id": one, "did": await desk.change("retry", one, expected=Status.FAILED)} for one in delivery_ids]

    rows = at_desk(change)
    show_rows(rows, ("id", "did"), as_json=as_json, empty="")
    if any(row["did"] != Status.QUEUED for row in rows):
        sys.exit(1)


@webhooks.command("test")
@click.argument("url")
@click.option(
    "--secrets",
    type=click.File(),
    metavar="FILE",
    help="Sign with the secrets of the file, one a line, the newest first; - reads standard input.",
)
@click.option(
    "--body", "form", type=click.Choice(SHAPES), default=SHAPES[0], show_default=True, help="The form of the body."
)
@settings_options("webhook_allow")
@as_json
def try_receiver(url: str, secrets: TextIO | None, form: str, as_json: bool, **flags: object) -> None:
    """Sends an event `job.test` to a receiver, as a delivery is sent, and shows the answer. Needs no database.

    The address is checked as at every delivery. Exit code 1 if the receiver did not answer 2xx.

    \b
      pushq webhooks test https://example.com/hook
      echo whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw | pushq webhooks test https://example.com/hook --secrets -
      pushq webhooks test http://10.1.2.3:8000/hook --webhook-allow 10.1.0.0/16
    """
    allowed = [ip_network(network) for network in load_settings(**flags).webhook_allow or ()]
    lines = [line.strip() for line in secrets or () if line.strip()]

    async def run() -> None:
        trial = await try_out(url, allowed, lines, form)
        answer = trial.answer
        shown = {
            "webhook_id": str(trial.webhook_id),
            "address": answer.address,
            "status": answer.status,
            "seconds": round(trial.seconds, 3),
            "cut": answer.cut,
        }
        if as_json:
            click.echo(json.dumps(shown))
        else:
            for what, value in shown.items():
                click.echo(f"{what:11} {'-' if value is None else value}")
        if not 200 <= answer.status < 300:
            sys.exit(1)

    anyio.run(run)
