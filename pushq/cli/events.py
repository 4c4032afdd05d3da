"""pushq events."""

from __future__ import annotations

import sys

import click

from pushq.cli.desk import at_desk
from pushq.cli.options import WholeNumber, as_json
from pushq.cli.output import Row, in_short, line, show_rows
from pushq.desk import Desk
from pushq.desk.history import KINDS, Wanted

LISTED = ("at", "job_id", "task", "what", "attempt", "actor", "remark")


@click.command()
@click.option(
    "--kind", "kinds", type=click.Choice(KINDS), multiple=True, metavar="KIND", help="Only events of this kind."
)
@click.option("--tenant", help="Only events of this tenant_id.")
@click.option(
    "--limit", type=WholeNumber(0, 100_000), metavar="N", default=50, show_default=True, help="The most events to list."
)
@click.option("--follow", "follows", is_flag=True, help="Then show events as they happen, until Ctrl-C.")
@as_json
def events(kinds: tuple[str, ...], tenant: str | None, limit: int, follows: bool, as_json: bool) -> None:
    """Lists what happened to jobs: the newest events, the latest at the end.

    Failures, retries, crashes, cancels and changes by hand are events; `pushq queues all-events QUEUE` adds every claim
    and every success of a queue. `pushq jobs show ID` has the events of one job.

    \b
      pushq events
      pushq events --kind failed --kind requeued
      pushq events --follow --json
    """
    wanted = Wanted(kinds or None, tenant)
    if follows:
        try:
            at_desk(lambda desk: _follow(desk, wanted, limit, as_json))  # until Ctrl-C
        except KeyboardInterrupt:
            sys.exit(130)
        return
    rows = at_desk(lambda desk: desk.newest_events(wanted, limit))
    shown = rows if as_json else [for_people(row) for row in rows]
    show_rows(shown, LISTED, as_json=as_json, empty="No events match.")


async def _follow(desk: Desk, wanted: Wanted, limit: int, as_json: bool) -> None:
    async for rows in desk.follow_events(wanted, limit, lambda text: click.echo(f"pushq: {text}", err=True)):
        if as_json:
            show_rows(rows, (), as_json=True, empty="")
        else:
            for row in rows:
                click.echo(line(for_people(row)[column] for column in LISTED))
        sys.stdout.flush()


def for_people(row: Row) -> Row:
    """An event with the columns of the list."""
    if row["kind"] in (row["became"], "note"):
        what = row["kind"]
    else:
        what = row["kind"] + (f", {row['became']}" if row["became"] else "")
    remark = row["error"].splitlines()[0] if row["error"] else row["detail"]
    return {**row, "what": what, "remark": remark and in_short(remark)}
