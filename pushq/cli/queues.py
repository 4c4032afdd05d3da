"""pushq queues."""

from __future__ import annotations

import click

from pushq.cli.desk import at_desk, hint_at_slips
from pushq.cli.limits import stamp
from pushq.cli.options import ListsByItself, as_json
from pushq.cli.output import Row, show_causes, show_rows
from pushq.desk import COUNTED_NOW, Desk
from pushq.exporter.lines import printable

EVERY = "*"
MOST_COUNTED = 2 * COUNTED_NOW
"""Counted now at most: jobs of priority 0, and jobs of others."""
LISTED = ("queue", "queued", "running", "oldest_seconds", "served", "paused", "all_events", "keep", "keep_failed")


@click.group(cls=ListsByItself)
def queues() -> None:
    """Lists, pauses and resumes queues, and chooses what is kept of them. Without a command: lists queues.

    \b
      pushq queues pause mail     # running jobs run on; queued jobs wait
      pushq queues resume mail
      pushq queues why mail       # why its jobs wait
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


@queues.command()
@click.argument("queue", metavar="QUEUE")
@as_json
def why(queue: str, as_json: bool) -> None:
    """Says why jobs of the queue wait, every cause in a sentence, the most lasting first; and how many are queued.

    \b
      pushq queues why mail
      pushq queues why mail --json
    """
    empty = f"No job of queue {printable(repr(queue))} is queued, and none would wait."
    show_causes(at_desk(lambda desk: desk.why_queue(queue)), as_json=as_json, empty=empty)


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
        did = [{"queue": name, "did": await desk.keep_all_events(name, is_on=not is_off)} for name in names]
        await hint_at_slips(desk, names)
        return did

    show_rows(at_desk(change), ("queue", "did"), as_json=as_json, empty="")


@queues.command()
@_names
@click.option("--all", "every", is_flag=True, help="All queues that say nothing themselves.")
@click.option("--for", "keep", metavar="TIME", help="How long finished jobs are kept: 2h, 30d; 0: not at all.")
@click.option("--failed", "keep_failed", metavar="TIME", help="How long failed jobs are kept. Without: as the others.")
@click.option("--default", "is_default", is_flag=True, help="As `--all` says, else as PUSHQ_RETENTION.")
@as_json
def keep(
    names: tuple[str, ...], every: bool, keep: str | None, keep_failed: str | None, is_default: bool, as_json: bool
) -> None:
    """Chooses how long finished jobs of the queues are kept.

    TIME is an interval of PostgreSQL's: 90s, 15m, 2h, 30d, 3mon. M means minutes, as m does. The rule that now holds is
    shown. Jobs go at the next sweep after that time. The choice replaces the former one: without --for, jobs that did
    not fail are kept by default.

    \b
      pushq queues keep mail --for 2h --failed 30d
      pushq queues keep --all --failed 90d
      pushq queues keep mail --default
    """
    _refuse_unclear(names, every)
    if is_default == bool(keep or keep_failed):
        raise click.UsageError("Give --for, --failed or both; or --default alone.")

    async def change(desk: Desk) -> list[dict[str, str | None]]:
        did = [await desk.keep(name, keep, keep_failed) for name in names or (EVERY,)]
        await hint_at_slips(desk, names)
        return did

    show_rows(at_desk(change), ("queue", "did", "keep", "keep_failed"), as_json=as_json, empty="")


@queues.command()
@click.argument("queue")
@click.option("--by", type=click.Choice(["tenant", "key"]), help="Whose jobs take turns.")
@click.option("--off", "is_off", is_flag=True, help="The most urgent job comes first again.")
@as_json
def fair(queue: str, by: str | None, is_off: bool, as_json: bool) -> None:
    """Makes a queue fair: workers go round its tenants, or its keys, and take a job of each.

    Tenants with a weight in pushq.tenants have as many jobs a round. Jobs that are there already get their turns in
    steps; if the command is stopped meanwhile, the supervisors' sweepers do the rest within minutes.

    \b
      pushq queues fair mail --by tenant
      pushq queues fair mail --off
    """
    if is_off == bool(by):
        raise click.UsageError("Give --by tenant, --by key, or --off.")

    async def change(desk: Desk) -> list[dict[str, object]]:
        did = await desk.be_fair(queue, by)
        await hint_at_slips(desk, [queue])
        return [{"queue": queue, "did": did, "jobs": await stamp(desk, "their turns")}]

    show_rows(at_desk(change), ("queue", "did", "jobs"), as_json=as_json, empty="")


@queues.command()
@click.argument("queue")
@click.argument("time", metavar="TIME")
@as_json
def turn(queue: str, time: str, as_json: bool) -> None:
    """Chooses how long jobs that need the same may follow one another, while others wait for what they hold.

    TIME is an interval of PostgreSQL's, an hour at most: 50ms, the default, keeps workers busy; 0 is strict order; 60s
    drains one model before the next.

    \b
      pushq queues turn models 60s
      pushq queues turn mail 0
    """

    async def change(desk: Desk) -> list[dict[str, str]]:
        did = await desk.set_turn(queue, time)
        await hint_at_slips(desk, [queue])
        return [{"queue": queue, "did": did}]

    show_rows(at_desk(change), ("queue", "did"), as_json=as_json, empty="")


def _refuse_unclear(names: tuple[str, ...], every: bool) -> None:
    if bool(names) == every:
        raise click.UsageError("Name queues or give --all, not both." if every else "Name queues, or give --all.")


def _change(verb: str, names: tuple[str, ...], every: bool, as_json: bool) -> None:
    _refuse_unclear(names, every)

    async def change(desk: Desk) -> list[dict[str, str]]:
        did = [{"queue": name, "did": await desk.change(verb, name)} for name in names or (EVERY,)]
        await hint_at_slips(desk, names)
        if every and verb == "resume":
            did += [{"queue": row["queue"], "did": "still paused"} for row in await desk.list_queues() if row["paused"]]
        return did

    show_rows(at_desk(change), ("queue", "did"), as_json=as_json, empty="")
