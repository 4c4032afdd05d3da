"""pushq supervisors."""

from __future__ import annotations

import click

from pushq.cli.desk import at_desk
from pushq.cli.options import as_json
from pushq.cli.output import Row, show_rows
from pushq.desk.waiting import duration

LISTED = ("supervisor", "alive", "since", "lease", "workers", "running", "oldest", "queues", "tasks")
SHOWN_TASKS = 3


@click.command()
@as_json
def supervisors(as_json: bool) -> None:
    """Lists the supervisors: who is alive, what each serves and runs, since when.

    lease: the time left until the others take its jobs; negative for a dead supervisor, whose jobs a sweeper requeues.
    oldest: how long its oldest job has run.

    \b
      pushq supervisors
      pushq jobs list --supervisor NAME --status running
    """
    rows = at_desk(lambda desk: desk.list_supervisors())
    shown = rows if as_json else [_for_people(row) for row in rows]
    show_rows(shown, LISTED, as_json=as_json, empty="No supervisor is alive.")


def _for_people(row: Row) -> Row:
    left, oldest, tasks = row["lease_seconds"], row["oldest_seconds"], row["tasks"]
    more = f" and {len(tasks) - SHOWN_TASKS} more" if len(tasks) > SHOWN_TASKS else ""
    return {
        "supervisor": row["name"],
        "alive": "yes" if row["is_alive"] else "no",
        "since": row["started_at"],
        "lease": None if left is None else "-" * (left < 0) + duration(abs(left)),
        "workers": row["workers"],
        "running": row["running"],
        "oldest": None if oldest is None else duration(max(oldest, 0.0)),
        "queues": ",".join(row["queues"]) or None,
        "tasks": ", ".join(tasks[:SHOWN_TASKS]) + more or None,
    }
