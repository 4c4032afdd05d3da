"""pushq queues."""

from __future__ import annotations

import click

from pushq.cli.desk import at_desk
from pushq.cli.options import ListsByItself, as_json
from pushq.cli.output import Row, show_rows
from pushq.desk import COUNTED_NOW, Desk

EVERY = "*"
MOST_COUNTED = 2 * COUNTED_NOW
"""Counted now at most: jobs of priority 0, and jobs of others."""
LISTED = ("queue", "queued", "running", "oldest_seconds", "served", "paused", "all_events")


@click.group(cls=ListsByItself)
def queues() -> None:
    """Lists, pauses and resumes queues, and chooses their events. Without a command: lists queues.

    \b
      pushq queues pause mail     # running jobs run on; queued jobs wait
      pushq queues resume mail
      pushq queues pause --all    # before the first supervisor on a copy of a database
    """


@queues.command("list")
@as_json
def list_queues(as_json: bool) -> None:
    """Lists queues with their unfinished jobs.

    Up to 1,000 queued jobs of a queue are counted now. A larger number, marked by ~, is as last counted in the
    background; 1000+ where nobody has counted.

    \b
      pushq queues list
      pushq queues --json
    """
    rows = at_desk(lambda desk: desk.list_queues())
    shown = rows if as_json else [row | {"queued": _queued(row)} for row in rows]
    show_rows(shown, LISTED, as_json=as_json, empty="No queue is known yet.")


def _queued(row: Row) -> int | str:
    if row["is_exact"]:
        return int(row["queued"])
    return f"~{row['queued']}" if row["queued"] > MOST_COUNTED else f"{row['queued']}+"


_names = click.argument("names", nargs=-1, metavar="QUEUE...")
_all = click.option("--all", "every", is_flag=True, help="All queues, including future queues.")


@queues.command()
@_names
@_all
@as_json
def pause(names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Stops pools from claiming jobs of the queues. Running jobs run on.

    \b
      pushq queues pause mail
      pushq queues pause --all
    """
    _change("pause", names, every, as_json)


@queues.command()
@_names
@_all
@as_json
def resume(names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Lets pools claim jobs of the queues again.

    --all ends only `pause --all`. Queues paused by name stay paused, and are shown.

    \b
      pushq queues resume mail
      pushq queues resume --all
    """
    _change("resume", names, every, as_json)


@queues.command("all-events")
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@click.option("--off", "is_off", is_flag=True, help="Keep only what is kept by default.")
@as_json
def all_events(names: tuple[str, ...], is_off: bool, as_json: bool) -> None:
    """Keeps every transition of the queues' jobs as an event, claims and successes too.

    Holds for jobs that are claimed from now on.

    \b
      pushq queues all-events mail
      pushq queues all-events mail --off
    """

    async def change(desk: Desk) -> list[dict[str, str]]:
        return [{"queue": name, "did": await desk.keep_all_events(name, is_on=not is_off)} for name in names]

    show_rows(at_desk(change), ("queue", "did"), as_json=as_json, empty="")


def _change(verb: str, names: tuple[str, ...], every: bool, as_json: bool) -> None:
    if bool(names) == every:
        raise click.UsageError("Name queues, or give --all.")

    async def change(desk: Desk) -> list[dict[str, str]]:
        did = [{"queue": name, "did": await desk.change(verb, name)} for name in names or (EVERY,)]
        if every and verb == "resume":
            did += [{"queue": row["queue"], "did": "still paused"} for row in await desk.list_queues() if row["paused"]]
        return did

    show_rows(at_desk(change), ("queue", "did"), as_json=as_json, empty="")
