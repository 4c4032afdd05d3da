"""pushq enqueue and pushq jobs."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import anyio
import click

from pushq.cli.desk import at_desk
from pushq.cli.options import ListsByItself, as_json
from pushq.cli.output import Progress, Row, show_rows
from pushq.desk import Desk, Filter
from pushq.errors import UsageError
from pushq.exporter.lines import printable
from pushq.job import NewJob, Status
from pushq.settings import TEN_YEARS


def _refuse_nan(context: click.Context, option: click.Parameter, value: float) -> float:
    """Refuses NaN, which passes every test of a range."""
    if math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds.", context, option)
    return value


@click.command()
@click.argument("task")
@click.option(
    "--payload", default="{}", metavar="JSON", help="The handler's arguments, a JSON object. `-` reads standard input."
)
@click.option("--queue", default="default", show_default=True, help="The job's queue.")
@click.option(
    "--priority", type=click.IntRange(-32768, 32767), default=0, show_default=True, help="Smaller numbers run first."
)
@click.option(
    "--delay",
    type=click.FloatRange(0, TEN_YEARS),
    callback=_refuse_nan,
    default=0,
    metavar="SECONDS",
    help="Seconds until the earliest start.",
)
@click.option("--unique-key", help="At most one unfinished job may have this key.")
@click.option(
    "--wait",
    "waits",
    is_flag=True,
    help="Wait for the end of the job, and show the row. Exit code 1 unless the job succeeded.",
)
@as_json
def enqueue(
    task: str, payload: str, queue: str, priority: int, delay: float, unique_key: str | None, waits: bool, as_json: bool
) -> None:
    """Inserts a job and prints its id.

    \b
      pushq enqueue mail.welcome --payload '{"user_id": 42}'
      pushq enqueue report.build --wait
    """
    job = NewJob(task, _payload(payload), queue=queue, priority=priority, unique_key=unique_key)

    async def insert(desk: Desk) -> Row:
        wanted = replace(job, run_at=await desk.instant(delay)) if delay else job
        job_id = await desk.insert(wanted)
        if job_id is None:
            raise UsageError(f"An unfinished job has the unique key {unique_key!r}; nothing was inserted.")
        if reason := await desk.why_it_waits(task, queue):
            click.echo(
                f"pushq: The job is queued, and waits: {printable(reason)}" + "." * (reason[-1] != "?"), err=True
            )
        return await _wait_finished(desk, job_id) if waits else {"id": job_id}

    row = at_desk(insert)
    if as_json:
        show_rows([row], list(row), as_json=True, empty="")
    elif waits:
        _show_one(row)
    else:
        click.echo(row["id"])
    if waits and row["status"] != Status.SUCCEEDED:
        sys.exit(1)


def _payload(text: str) -> dict[str, object]:
    text = sys.stdin.read() if text == "-" else text
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--payload is not JSON: {error}. Quote it for the shell: --payload '{{\"user_id\": 42}}'."
        ) from None
    if not isinstance(payload, dict):
        raise UsageError(
            f"--payload is a JSON {type(payload).__name__}, not an object; its keys are the handler's arguments."
        )
    return payload


async def _wait_finished(desk: Desk, job_id: UUID) -> Row:
    progress, began = Progress(), anyio.current_time()
    try:
        return await _poll(desk, job_id, progress, began)
    except BaseException:
        click.echo(f"No longer waiting for job {job_id}, which goes on.", err=True)
        raise
    finally:
        progress.end()


async def _poll(desk: Desk, job_id: UUID, progress: Progress, began: float) -> Row:
    while True:
        row = await desk.find(job_id)
        if row is None:
            raise UsageError(f"Job {job_id} was deleted during the wait.")
        if Status(row["status"]).is_finished:
            return row
        waited = anyio.current_time() - began
        progress.show(f"{job_id} {row['status']} {waited:.0f} s")
        await anyio.sleep(min(1.0, 0.05 + waited / 10))


LISTED = ("id", "task", "queue", "status", "attempt", "failures", "crashes", "enqueued_at", "finished_at", "error")


@click.group(cls=ListsByItself)
def jobs() -> None:
    """Lists, shows, cancels and retries jobs. Without a command: lists the newest jobs, with the options of `list`.

    \b
      pushq jobs list --status failed --task mail.welcome
      pushq jobs show 0192f0c1-…
      pushq jobs retry 0192f0c1-… 0192f0c2-…
    """


@jobs.command("list")
@click.option("--status", type=click.Choice([status.value for status in Status]), help="Only jobs of this status.")
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--task", help="Only jobs of this task.")
@click.option("--unknown", is_flag=True, help="Only queued jobs with a task that no supervisor has ever known.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The most jobs to list.")
@as_json
def list_jobs(
    status: str | None, queue: str | None, task: str | None, unknown: bool, limit: int, as_json: bool
) -> None:
    """Lists jobs, the newest first. Marks queued jobs of unknown tasks and paused queues."""
    rows = at_desk(lambda desk: desk.list_jobs(Filter(status, queue, task, unknown), limit))
    if not as_json:
        rows = [row | {"error": _remark(row)} for row in rows]
    show_rows(rows, LISTED, as_json=as_json, empty="No jobs match.")


def _remark(row: Row) -> str | None:
    if row["status"] == Status.QUEUED and not row["task_is_known"]:
        return "waits: no supervisor knows this task"
    if row["status"] == Status.QUEUED and row["queue_is_paused"]:
        return "waits: its queue is paused"
    return row["error"].splitlines()[0][:60] if row["error"] else None


@jobs.command()
@click.argument("job_id", type=click.UUID, metavar="ID")
@as_json
def show(job_id: UUID, as_json: bool) -> None:
    """Shows one job in full, with the last error."""
    row = at_desk(lambda desk: desk.find(job_id))
    if row is None:
        raise UsageError(f"There is no job {job_id}; it may have been dropped after its retention.")
    if as_json:
        show_rows([row], list(row.keys()), as_json=True, empty="")
    else:
        _show_one(row)


def _show_one(row: Row) -> None:
    for name, value in row.items():
        if value is not None:
            shown = value.isoformat() if isinstance(value, datetime) else str(value)
            click.echo(f"{name:15} " + ("\n" + " " * 16).join(map(printable, shown.splitlines())))


@jobs.command()
@click.argument("job_ids", type=click.UUID, nargs=-1, required=True, metavar="ID...")
@as_json
def cancel(job_ids: tuple[UUID, ...], as_json: bool) -> None:
    """Ends unfinished jobs as cancelled. The handler of a running job runs on, and its outcome is refused."""
    _change("cancel", job_ids, "cancelled", as_json)


@jobs.command()
@click.argument("job_ids", type=click.UUID, nargs=-1, required=True, metavar="ID...")
@as_json
def retry(job_ids: tuple[UUID, ...], as_json: bool) -> None:
    """Makes jobs run again, now, with a clean count of failures and crashes."""
    _change("retry", job_ids, "queued", as_json)


def _change(verb: str, job_ids: tuple[UUID, ...], wanted: str, as_json: bool) -> None:
    """Changes each job and shows the results. Exit code 1 unless all results are as wanted."""

    async def change(desk: Desk) -> list[Row]:
        return [{"id": job_id, "did": await desk.change(verb, job_id)} for job_id in job_ids]

    rows = at_desk(change)
    show_rows(rows, ("id", "did"), as_json=as_json, empty="")
    if any(row["did"] != wanted for row in rows):
        sys.exit(1)
