"""pushq schedules."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

import click

from pushq.cli.desk import at_desk
from pushq.cli.options import ListsByItself, WholeNumber, as_json
from pushq.cli.output import Row, in_short, show_rows
from pushq.desk import Desk
from pushq.errors import UsageError
from pushq.exporter.lines import printable
from pushq.schedules import Times, read, upcoming

LISTED = ("schedule", "tenant", "times", "task", "queue", "next", "last", "note")


@click.group(cls=ListsByItself)
def schedules() -> None:
    """Lists schedules, pauses and resumes them, runs one now, tells the next times. Without a command: lists.

    A schedule is a row of pushq.schedules, or stands in code as @tasks.schedule(…).

    \b
      psql -c "insert into pushq.schedules (name, cron, zone, task)
               values ('report', '0 2 * * *', 'Europe/Berlin', 'report.build')"
      pushq schedules next report
      pushq schedules run report
    """


@schedules.command("list")
@as_json
def list_schedules(as_json: bool) -> None:
    """Lists the schedules, those with an error first.

    next, last: the next slot, and the last for which a job was inserted. note: why there is no job; since when the
    schedule is paused; why its jobs would wait; or that no live supervisor's code declares it any more.

    \b
      pushq schedules list
      pushq schedules --json
    """
    rows = at_desk(lambda desk: desk.list_schedules())
    shown = rows if as_json else [_for_people(row) for row in rows]
    show_rows(shown, LISTED, as_json=as_json, empty="There are no schedules.")


def _for_people(row: Row) -> Row:
    times = f"every {row['every']}" if row["every"] else f"{in_short(row['cron'], 40)} {row['zone']}"
    return {
        "schedule": row["name"],
        "tenant": row["tenant_id"],
        "times": times,
        "task": row["task"],
        "queue": row["queue"],
        "next": None if row["paused_at"] else row["next_at"],
        "last": row["last_at"],
        "note": _note(row),
    }


def _note(row: Row) -> str | None:
    if row["paused_at"]:
        return f"paused since {row['paused_at'].astimezone():%Y-%m-%d %H:%M:%S}"
    if row["error"]:
        return str(row["error"])
    if row["waits"]:
        return str(row["waits"])
    if row["declared_at"] and not row["is_declared"]:
        return "was declared in code, and is no more; `pushq schedules remove` removes it"
    return None


_tenant = click.option("--tenant", help="The schedule of this tenant_id; else the one of nobody's.")
_names = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@schedules.command()
@_names
@_tenant
@as_json
def pause(names: tuple[str, ...], tenant: str | None, as_json: bool) -> None:
    """Pauses schedules. Slots during the pause are not made up for, and jobs that are there already run.

    A pause outlives restarts of supervisors whose code declares the schedule. Exit code 1 if there is no such schedule.

    \b
      pushq schedules pause report
    """
    _each(names, lambda desk, name: desk.change_schedule("pause", name, tenant), "did", as_json)


@schedules.command()
@_names
@_tenant
@as_json
def resume(names: tuple[str, ...], tenant: str | None, as_json: bool) -> None:
    """Ends the pause of schedules. They go on with the next slot. Exit code 1 if there is no such schedule.

    \b
      pushq schedules resume report
    """
    _each(names, lambda desk, name: desk.change_schedule("resume", name, tenant), "did", as_json)


@schedules.command()
@_names
@_tenant
@as_json
def run(names: tuple[str, ...], tenant: str | None, as_json: bool) -> None:
    """Inserts a job of each schedule now, paused or not. The next slot stays as it is. Shows the jobs' ids.

    Exit code 1 if there is no such schedule.

    \b
      pushq schedules run report
    """
    _each(names, lambda desk, name: desk.change_schedule("run", name, tenant), "job", as_json)


@schedules.command()
@_names
@_tenant
@as_json
def remove(names: tuple[str, ...], tenant: str | None, as_json: bool) -> None:
    """Removes schedules. Their jobs stay. What code declares comes back at the next start of a supervisor.

    Exit code 1 if there is no such schedule.

    \b
      pushq schedules remove report
    """
    _each(names, lambda desk, name: desk.remove_schedule(name, tenant), "did", as_json)


def _each(names: Sequence[str], change: Callable[[Desk, str], Awaitable[str]], column: str, as_json: bool) -> None:
    """Changes each schedule, and shows the results. Exit code 1 if one is unknown."""

    async def all_of_them(desk: Desk) -> tuple[list[Row], list[str]]:
        rows: list[Row] = [{"schedule": name, column: await change(desk, name)} for name in names]
        return rows, await desk.schedule_names() if any(row[column] == "unknown" for row in rows) else []

    rows, others = at_desk(all_of_them)
    show_rows(rows, ("schedule", column), as_json=as_json, empty="")
    if unknown := [row["schedule"] for row in rows if row[column] == "unknown"]:
        for name in unknown:
            click.echo(f"pushq: {_unknown(name, others)}", err=True)
        sys.exit(1)


def _unknown(name: str, others: Sequence[str]) -> str:
    if name in others:
        return f"The schedule {printable(repr(name))} belongs to a tenant; name the tenant with --tenant."
    close = difflib.get_close_matches(name, others, n=1)
    hint = f"; did you mean {printable(repr(close[0]))}?" if close else "; `pushq schedules` lists all."
    return f"There is no schedule {printable(repr(name))}{hint}"


@schedules.command("next")
@click.argument("name", required=False)
@_tenant
@click.option("--cron", metavar="EXPRESSION", help="Read this expression in place of a schedule. Needs no database.")
@click.option("--zone", default="UTC", show_default=True, help="The time zone of --cron.")
@click.option("--count", type=WholeNumber(1, 1000), metavar="N", default=5, show_default=True, help="How many slots.")
@as_json
def tell_next(name: str | None, tenant: str | None, cron: str | None, zone: str, count: int, as_json: bool) -> None:
    """Tells the next slots of a schedule, or of a cron expression that you try out, in its zone and in UTC.

    \b
      pushq schedules next report
      pushq schedules next --cron '30 2 * * *' --zone Europe/Berlin --count 10
    """
    if (name is None) == (cron is None):
        raise click.UsageError("Give the name of a schedule, or an expression with --cron.")
    if name is not None:
        times, first, zone = _of_schedule(name, tenant)
    else:
        times, now = read(cron, zone, None), datetime.now(UTC)
        first = times.after(now, now)
    where = UTC if zone.upper() == "UTC" else ZoneInfo(zone)
    slots = islice(upcoming(times, first), count)
    rows = [{"in_zone": slot.astimezone(where).isoformat(), "in_utc": f"{slot:%Y-%m-%dT%H:%M:%SZ}"} for slot in slots]
    show_rows(rows, ("in_zone", "in_utc"), as_json=as_json, empty="")


def _of_schedule(name: str, tenant: str | None) -> tuple[Times, datetime, str]:
    """The times of a schedule, its next slot, and its zone."""

    async def find(desk: Desk) -> tuple[Row | None, list[str]]:
        row = await desk.find_schedule(name, tenant)
        return row, [] if row else await desk.schedule_names()

    row, others = at_desk(find)
    if row is None:
        raise UsageError(_unknown(name, others))
    times = read(row["cron"], row["zone"], row["every"])
    first = row["next_at"]
    if first is None or (row["paused_at"] and first <= row["now"]):
        first = times.after(row["now"], first or row["now"])
    return times, first, row["zone"]
