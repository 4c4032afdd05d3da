"""pushq queues."""

from __future__ import annotations

import click

from pushq.cli.desk import at_desk
from pushq.cli.options import ListsByItself, as_json
from pushq.cli.output import show_rows
from pushq.database.desk import Desk

LISTED = ("queue", "queued", "running", "oldest_seconds", "served", "paused")


@click.group(cls=ListsByItself)
def queues() -> None:
    """Lists, pauses and resumes queues. By itself: lists them.

    \b
      pushq queues pause mail     # running jobs run on; queued ones wait
      pushq queues resume mail
    """


@queues.command("list")
@as_json
def list_queues(as_json: bool) -> None:
    """Lists queues with their unfinished jobs, counted now."""
    show_rows(at_desk(lambda desk: desk.list_queues()), LISTED, as_json=as_json, empty="No queue is known yet.")


@queues.command()
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@as_json
def pause(names: tuple[str, ...], as_json: bool) -> None:
    """Stops pools from claiming the jobs of a queue."""
    _change("pause", names, as_json)


@queues.command()
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@as_json
def resume(names: tuple[str, ...], as_json: bool) -> None:
    """Lets pools claim the jobs of a queue again."""
    _change("resume", names, as_json)


def _change(verb: str, names: tuple[str, ...], as_json: bool) -> None:
    async def change(desk: Desk) -> list[dict[str, str]]:
        return [{"queue": name, "did": await desk.change(verb, name)} for name in names]

    show_rows(at_desk(change), ("queue", "did"), as_json=as_json, empty="")
