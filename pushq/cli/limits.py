"""pushq limits."""

from __future__ import annotations

import difflib
import sys
from datetime import MAXYEAR

import click

from pushq.cli.desk import at_desk, hint_at_slips
from pushq.cli.options import ListsByItself, as_json
from pushq.cli.output import Progress, Row, show_rows
from pushq.desk import Desk
from pushq.errors import UsageError
from pushq.exporter.lines import printable

LISTED = ("name", "capacity", "held", "free", "rate", "burst", "waiting", "next_token")
KINDS = ("queue", "key", "tenant", "task", "affinity")
OF_QUEUE = "queue:"
STAMPED = ("queue:", "tenant:", "task:")
"""Names that jobs need by a rule, and not by what their producers said."""


@click.group(cls=ListsByItself)
def limits() -> None:
    """Lists, sets and removes limits: how many jobs run at once, and how many begin a second. Without a command: lists.

    A limit is a rule of a name:

    \b
      gpu            a resource: jobs that name it in their `needs`
      queue:mail     jobs of the queue
      task:report    jobs of the task; task:* each task without a rule of its own
      tenant:acme    jobs of the tenant_id; tenant:* each tenant
      key:user-7     jobs with the limit_key; key:* each key
      affinity:m7b   jobs with the affinity; affinity:* each affinity

    Without a rule, a resource or a key has capacity 1, and all else any. Limits hold across all supervisors, and may be
    changed at any time: running jobs run on.

    \b
      pushq limits set gpu --capacity 4
      pushq limits set queue:mail --rate 10 --burst 20
      pushq limits remove queue:mail
    """


@limits.command("list")
@as_json
def list_limits(as_json: bool) -> None:
    """Lists the rules, and the names without a rule of their own that jobs hold or wait for.

    held and free: units, one for each job if the job says no more. waiting: queued jobs that need the name, of the
    10,000 that are looked at; a + says that there are more. next_token: when the rate lets the next job begin, if not
    now.

    \b
      pushq limits list
      pushq limits --json
    """
    rows = at_desk(lambda desk: desk.list_limits())
    shown = rows if as_json else [_for_people(row) for row in rows]
    show_rows(shown, LISTED, as_json=as_json, empty="There are no limits.")


def _for_people(row: Row) -> Row:
    capacity = "any" if row["capacity"] is None else row["capacity"]
    more = "" if row["are_all"] else "+"
    waiting = None if row["waiting"] is None else f"{row['waiting']}{more}"
    shown = waiting if more else row["waiting"]
    next_token = row["next_token_at"]
    if next_token is not None and next_token.year == MAXYEAR:
        next_token = f"after {MAXYEAR}"
    return {**row, "capacity": capacity, "waiting": shown, "next_token": next_token}


class Capacity(click.ParamType):  # type: ignore[type-arg]
    name = "capacity"

    def convert(self, value: str | int | None, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "any":
            return "any"
        try:
            capacity = int(value or 0)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor `any`.", param, ctx)
        if not 0 <= capacity < 2**31:
            self.fail(f"{capacity} is not in the range 0 to {2**31 - 1}; 0 lets no job begin.", param, ctx)
        return capacity


@limits.command("set")
@click.argument("name")
@click.option("--capacity", type=Capacity(), metavar="N|any", help="Units held at once, at most; 0: no job begins.")
@click.option("--rate", type=float, metavar="R", help="Units that may be taken a second: 0.1 is one in ten seconds.")
@click.option("--burst", type=int, metavar="B", help="Units that may be taken at once after a rest.  [default: 1]")
@click.option("--strict", "is_strict", is_flag=True, help="For key:K, key:*: a job to be tried again keeps its place.")
@click.option(
    "--resource", "is_resource", is_flag=True, help="NAME is a resource, though its prefix is nearly a kind's."
)
@as_json
def set_limit(
    name: str,
    capacity: int | str | None,
    rate: float | None,
    burst: int | None,
    is_strict: bool,
    is_resource: bool,
    as_json: bool,
) -> None:
    """Sets the rule of a name, in place of the former one: without --capacity, any number may be held at once.

    Holds at once. Jobs of a queue, task or tenant that are there already get the limit in steps; if the command is
    stopped meanwhile, the supervisors' sweepers do the rest within minutes.

    A name whose prefix is nearly that of a kind, as queues:mail, would be a resource, and bind no queue. So the name is
    refused, unless jobs or tasks need it, or --resource is given.

    \b
      pushq limits set gpu --capacity 4
      pushq limits set api.example.com --capacity any --rate 10 --burst 20
      pushq limits set tenant:* --capacity 2      # of each tenant, two jobs at once
      pushq limits set queue:mail --capacity 0    # none begins, until another rule
      pushq limits set key:* --capacity 1 --strict
    """
    if capacity is None and rate is None:
        raise click.UsageError(
            f"Give --capacity, --rate or both. To lift a limit: pushq limits remove {name}. "
            "For a resource without bound: --capacity any."
        )
    units = None if isinstance(capacity, str) else capacity

    async def change(desk: Desk) -> list[Row]:
        if not is_resource:
            await _refuse_slips(desk, name)
        did = await desk.limit(name, units, rate, burst if burst is not None else 1, is_strict=is_strict)
        stamped = await stamp(desk, "the limit") if name.startswith(STAMPED) else 0
        if name.startswith(OF_QUEUE):
            await hint_at_slips(desk, [name.removeprefix(OF_QUEUE)])
        return [{"name": name, "did": did, "jobs": stamped}]

    show_rows(at_desk(change), ("name", "did", "jobs"), as_json=as_json, empty="")


async def _refuse_slips(desk: Desk, name: str) -> None:
    """Refuses the name of a resource that looks like a kind's, unless jobs need the name."""
    prefix, colon, rest = name.partition(":")
    close = difflib.get_close_matches(prefix.strip().lower(), KINDS, n=1)
    if colon and prefix not in KINDS and close and not await desk.is_resource(name):
        meant = printable(f"{close[0]}:{rest}")
        raise UsageError(
            f"{printable(repr(name))} would be a resource, and no job needs it; did you mean {meant}? "
            "For a resource of this name, add --resource."
        )


async def stamp(desk: Desk, what: str) -> int:
    """Gives the jobs that are there already what rules say of them, and shows how far. Returns how many."""
    progress, looked, stamped, is_done = Progress(), 0, 0, False
    try:
        async for more_looked, more_stamped in desk.stamp():
            looked, stamped = looked + more_looked, stamped + more_stamped
            progress.show(f"looked at {looked:,} unfinished jobs; {stamped:,} have got {what}")
        is_done = True
    finally:
        progress.end()
        if not is_done:
            click.echo(
                f"Stopped after {looked:,} unfinished jobs, of which {stamped:,} have got {what}. The rule is set; "
                "sweepers go on with the other jobs.",
                err=True,
            )
    return stamped


@limits.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@as_json
def remove(names: tuple[str, ...], as_json: bool) -> None:
    """Takes rules away. Then a resource or a key has capacity 1, and a queue, task, tenant or affinity any.

    Exit code 1 if a name has no rule.

    \b
      pushq limits remove gpu
      pushq limits remove queue:mail task:*
    """

    async def change(desk: Desk) -> list[Row]:
        return [{"name": name, "did": await desk.unlimit(name)} for name in names]

    rows = at_desk(change)
    show_rows(rows, ("name", "did"), as_json=as_json, empty="")
    if any(row["did"] != "removed" for row in rows):
        sys.exit(1)
