"""pushq enqueue and pushq jobs."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Literal, TypeVar, cast
from uuid import UUID

import anyio
import click

from pushq.cli.desk import at_desk
from pushq.cli.events import for_people
from pushq.cli.options import ListsByItself, Seconds, WholeNumber, as_json
from pushq.cli.output import Progress, Row, in_short, line, show_causes, show_rows
from pushq.desk import CHANGED, LONGEST_SEARCH, Desk, Filter, Listing, Place
from pushq.errors import DatabaseRefused, DatabaseTrouble, JobUnknown, PushqError, UsageError
from pushq.exporter.lines import printable
from pushq.job import NewJob, Status
from pushq.needs import OF_PUSHQ
from pushq.queue import Enqueued
from pushq.reading import Artifact
from pushq.settings import TEN_YEARS, Settings
from pushq.waiting import Waiting

Command = TypeVar("Command", bound=Callable[..., Any])
A_YEAR = 366 * 86_400
"""The longest window of a key, in seconds."""


def _refuse_nan(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuses NaN, which passes every test of a range."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds.", context, option)
    return value


def _units(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, int]:
    """Units by name. A name that has an = is followed by units."""
    units: dict[str, int] = {}
    for text in given:
        name, equals, number = text.rpartition("=") if "=" in text else (text, "", "1")
        if not _WHOLE.fullmatch(number):
            raise click.BadParameter(
                f"{text!r} has no whole number of units; write {name + equals}1, or the name alone for one unit.",
                context,
                option,
            )
        if name in units:
            raise click.BadParameter(f"{name!r} is named twice; for two units, write {name}=2.", context, option)
        units[name] = int(number)
    return units


_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@click.command()
@click.argument("task")
@click.option(
    "--payload", default="{}", metavar="JSON", help="The handler's arguments, a JSON object. `-` reads standard input."
)
@click.option("--queue", default="default", show_default=True, help="The job's queue.")
@click.option(
    "--priority",
    type=WholeNumber(-32768, 32767),
    metavar="N",
    default=0,
    show_default=True,
    help="Smaller numbers run first.",
)
@click.option(
    "--delay",
    type=Seconds(0, TEN_YEARS),
    callback=_refuse_nan,
    default=0,
    metavar="SECONDS",
    help="Seconds until the earliest start.",
)
@click.option(
    "--traceparent", metavar="HEADER", help="Your place in a trace: the header traceparent of W3C Trace Context."
)
@click.option("--webhook-url", metavar="URL", help="Is told the end of the job.")
@click.option(
    "--need",
    "needs",
    multiple=True,
    callback=_units,
    metavar="NAME[=UNITS]",
    help="What the job holds while it runs, a unit of it by default; repeatable.",
)
@click.option("--limit-key", metavar="TEXT", help="Of the jobs with this key, one runs at a time.")
@click.option(
    "--affinity",
    metavar="TEXT",
    help="What the job shares with jobs that run well one after the other on a worker, a model say.",
)
@click.option("--unique-key", help="At most one unfinished job may have this key.")
@click.option(
    "--standing",
    type=click.Choice(["keep", "replace"]),
    help="What becomes of an unfinished job with the key, whose id is printed: keep leaves the job as it is; replace "
    "gives a queued job what this call says. Without --standing or --window: an error.",
)
@click.option(
    "--window",
    type=Seconds(0, A_YEAR, min_open=True),
    callback=_refuse_nan,
    metavar="SECONDS",
    help="No second job with the key within SECONDS of the first, finished or not, whose id is printed.",
)
@click.option(
    "--wait",
    "waits",
    is_flag=True,
    help="Wait for the end of the job, and show the row. Exit code 1 unless the job succeeded.",
)
@as_json
def enqueue(
    task: str,
    payload: str,
    queue: str,
    priority: int,
    delay: float,
    traceparent: str | None,
    webhook_url: str | None,
    needs: dict[str, int],
    limit_key: str | None,
    affinity: str | None,
    unique_key: str | None,
    standing: Literal["keep", "replace"] | None,
    window: float | None,
    waits: bool,
    as_json: bool,
) -> None:
    """Inserts a job and prints its id.

    \b
      pushq enqueue mail.welcome --payload '{"user_id": 42}'
      pushq enqueue report.build --wait
      pushq enqueue image.draw --need gpu=2 --limit-key user:42
      pushq enqueue index.build --unique-key index:42 --standing replace --delay 10
    """
    try:
        job = NewJob(
            task,
            _payload(payload),
            queue,
            priority,
            unique_key=unique_key,
            traceparent=traceparent,
            webhook_url=webhook_url,
            needs=needs,
            limit_key=limit_key,
            affinity=affinity,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if (standing or window) and unique_key is None:
        raise UsageError("--standing and --window are about a key; give --unique-key.")

    async def insert(desk: Desk) -> Row:
        wanted = replace(job, run_at=await desk.instant(delay)) if delay else job
        done = await _enqueued(desk, wanted, standing, window)
        with _telling_of(done, waits=waits):
            if done.inserted and (reason := await desk.why_it_waits(task, queue)):
                click.echo(
                    f"pushq: The job is queued, and waits: {printable(reason)}" + "." * (reason[-1] != "?"), err=True
                )
            return await _wait_finished(desk, done.id) if waits else _told(done, standing, window)

    row = at_desk(insert)
    if as_json:
        show_rows([row], list(row), as_json=True, empty="")
    elif waits:
        _show_one(row)
    else:
        click.echo(row["id"])
    if waits and row["status"] != Status.SUCCEEDED:
        sys.exit(1)


async def _enqueued(
    desk: Desk, job: NewJob, standing: Literal["keep", "replace"] | None, window: float | None
) -> Enqueued:
    if standing or window:
        open_for = max(timedelta.resolution, timedelta(seconds=window)) if window else None
        done = await desk.enqueue(job, standing or "keep", open_for)
        if not done.inserted:
            click.echo(
                f"pushq: Job {done.id} has the unique key {printable(repr(job.unique_key))}; no job was inserted.",
                err=True,
            )
        return done
    job_id = await desk.insert(job)
    if job_id is None:
        raise UsageError(f"An unfinished job has the unique key {job.unique_key!r}; nothing was inserted.")
    return Enqueued(job_id, True)


def _told(done: Enqueued, standing: str | None, window: float | None) -> Row:
    return {"id": done.id} | ({"inserted": done.inserted} if standing or window else {})


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


@contextmanager
def _telling_of(done: Enqueued, *, waits: bool) -> Iterator[None]:
    """Names the job if anything ends the command after the INSERT."""
    try:
        yield
    except BaseException:
        told = (
            f"No longer waiting for job {done.id}, which goes on."
            if waits
            else f"Job {done.id} was inserted all the same."
        )
        click.echo(told, err=True)
        raise


async def _wait_finished(desk: Desk, job_id: UUID) -> Row:
    settings = Settings.load()
    waiting, progress = Waiting(settings.url, settings.listen_url), Progress()
    stopped: list[int] = []
    try:
        async with anyio.create_task_group() as beside:
            beside.start_soon(_show_waiting, desk, job_id, progress)
            beside.start_soon(_stop_by_signal, beside.cancel_scope, stopped)
            end = await _end_of(waiting, job_id)
            beside.cancel_scope.cancel()
    finally:
        progress.end()
    if stopped:
        sys.exit(128 + stopped[0])  # as a shell tells of a signal
    if isinstance(end, PushqError) and not isinstance(end, JobUnknown):
        raise end
    row = None if isinstance(end, JobUnknown) else await _row_of(desk, job_id, end)
    if row is None:
        raise UsageError(f"Job {job_id} was deleted during the wait.")
    return row


async def _end_of(waiting: Waiting, job_id: UUID) -> Mapping[str, Any] | PushqError:
    """Waits for the job. Returns what kept the wait from its end: raised in a task group, it would be a group's."""
    try:
        return await waiting.end_of(job_id)
    except PushqError as error:
        return error


async def _row_of(desk: Desk, job_id: UUID, end: Mapping[str, Any]) -> Row | None:
    """The whole row; of a producer that may not read all columns, those that every waiter may read."""
    try:
        return await desk.find(job_id)
    except DatabaseRefused:
        return {name: end[name] for name in _OF_EVERY_WAITER}


_OF_EVERY_WAITER = ("id", "task", "queue", "status", "attempt", "error", "result")


async def _stop_by_signal(scope: anyio.CancelScope, stopped: list[int]) -> None:
    """Gives the wait up in good order, so that the wish to be told is taken back."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for received in signals:
            stopped.append(received)
            scope.cancel()


async def _show_waiting(desk: Desk, job_id: UUID, progress: Progress) -> None:
    began, status = anyio.current_time(), Status.QUEUED.value
    while True:
        try:
            row = await desk.find(job_id)
            status = row["status"] if row else "gone"
        except DatabaseRefused:  # a producer, who may not read the whole row
            status = "unfinished"
        except DatabaseTrouble:  # the wait itself tells
            pass
        progress.show(f"{job_id} {status} {anyio.current_time() - began:.0f} s")
        await anyio.sleep(1)


LISTED = ("id", "task", "queue", "status", "attempt", "due", "started", "finished", "worker", "remark")


@click.group(cls=ListsByItself)
def jobs() -> None:
    """Lists, shows, explains, cancels and retries jobs. Without a command: lists the newest, as `list` does.

    \b
      pushq jobs list --status failed --task mail.welcome
      pushq jobs show 0192f0c1-…
      pushq jobs why 0192f0c1-…
      pushq jobs retry 0192f0c1-… 0192f0c2-…
      pushq jobs retry --status failed --task mail.welcome
    """


def filters(command: Command) -> Command:
    """The options that choose jobs, as one argument `wanted`."""

    @wraps(command)
    def with_filter(**given: Any) -> Any:
        chosen = {name: given.pop(name) for name in Filter.__dataclass_fields__}
        return command(wanted=Filter(**chosen), **given)

    for option in reversed(_FILTERS):
        with_filter = option(with_filter)
    return cast("Command", with_filter)


_FILTERS = (
    click.option("--status", type=click.Choice([status.value for status in Status]), help="Only jobs of this status."),
    click.option("--queue", help="Only jobs of this queue."),
    click.option("--task", help="Only jobs of this task."),
    click.option("--tenant", help="Only jobs of this tenant_id."),
    click.option("--correlation-id", help="Only jobs with this correlation_id."),
    click.option("--supervisor", help="Only jobs that this supervisor runs, or ran last."),
    click.option(
        "--unknown", "is_unknown", is_flag=True, help="Only queued jobs with a task that no supervisor has ever known."
    ),
)


@jobs.command("list")
@filters
@click.option(
    "--limit", type=WholeNumber(1, 100_000), metavar="N", default=50, show_default=True, help="The most jobs to list."
)
@click.option("--after", type=click.UUID, metavar="ID", help="Only jobs that are listed after this one: older jobs.")
@click.option("--whole", is_flag=True, help="Look through all jobs, however long that takes.")
@as_json
def list_jobs(wanted: Filter, limit: int, after: UUID | None, whole: bool, as_json: bool) -> None:
    """Lists jobs, the newest first. A queued job that does not run now says why.

    A list looks at the newest jobs for a moment, and names the --after with which to look further back.

    \b
      pushq jobs list --status failed --task mail.welcome
      pushq jobs list --unknown --json
    """
    seconds = math.inf if whole else LONGEST_SEARCH
    listing = at_desk(lambda desk: desk.list_jobs(wanted, limit, after=after, seconds=seconds))
    rows = listing.rows if as_json else [_for_people(row) for row in listing.rows]
    show_rows(rows, LISTED, as_json=as_json, empty="No jobs match.")
    if listing.older is not None and not as_json:
        _say_what_is_left(listing, limit)


def _say_what_is_left(listing: Listing, limit: int) -> None:
    if len(listing.rows) < limit:
        click.echo(f"Looked at {listing.looked:,} jobs, and older jobs are left; --whole looks at all.", err=True)
    click.echo(f"Older jobs: --after {listing.older}", err=True)


def _for_people(row: Row) -> Row:
    """A row with the columns of the list. A job of the past shows who ran it."""
    worker = f"{row['supervisor']} pool {row['pool']}" if row["supervisor"] else None
    is_queued = row["status"] == Status.QUEUED
    return {
        **row,
        "due": row["run_at"],
        "started": None if is_queued else row["started_at"],
        "finished": row["finished_at"],
        "worker": None if is_queued else worker,
        "remark": _remark(row),
    }


def _remark(row: Row) -> str | None:
    error = in_short(row["error"].splitlines()[0]) if row["error"] else None
    if row["status"] == Status.RUNNING:
        return "; last: ".join(text for text in (_progress(row["progress"]), error) if text) or None
    if row["status"] != Status.QUEUED:
        return error
    return "; last: ".join(text for text in (row["waits"] and f"waits: {row['waits']}", error) if text) or None


def _progress(text: str | None) -> str | None:
    """What the handler has told, in short: rendering 3/10, the third page."""
    told = json.loads(text) if text else {}
    numbers = [f"{told[name]:g}" for name in ("done", "total") if name in told]
    words = " ".join(part for part in (told.get("phase"), "/".join(numbers)) if part)
    return in_short(", ".join(part for part in (words, told.get("message")) if part)) or None


@jobs.command()
@click.argument("job_id", type=click.UUID, metavar="ID")
@as_json
def show(job_id: UUID, as_json: bool) -> None:
    """Shows one job in full: with the last error, its artifacts, and what happened to the job.

    Exit code 2 if there is no such job.

    \b
      pushq jobs show 0192f0c1-…
    """

    async def find(desk: Desk) -> tuple[Row | None, Sequence[Row], Sequence[Artifact]]:
        return await desk.find(job_id), await desk.events_of(job_id), await desk.artifacts_of(job_id)

    row, events, artifacts = at_desk(find)
    if row is None and not events:
        raise UsageError(f"There is no job {job_id}; it may have been dropped after its retention.")
    if as_json:
        row = {**(row or {"id": job_id}), "artifacts": [asdict(one) for one in artifacts], "events": events}
        show_rows([row], list(row.keys()), as_json=True, empty="")
    else:
        _show_one(row or {"id": job_id, "status": "deleted"})
        for one in artifacts:
            click.echo(f"{'artifact':15} " + line([one.name, one.content_type, f"{one.size:,} bytes"]))
        _show_events(events)


def _show_events(events: Sequence[Row]) -> None:
    for event in events:
        shown = for_people(event)
        click.echo(f"{'event':15} " + line(shown[name] for name in ("at", "what", "attempt", "actor", "remark")))
        if event["traceback"]:
            click.echo("".join(f"{'':16} {printable(text)}\n" for text in event["traceback"].splitlines()), nl=False)


def _show_one(row: Row) -> None:
    for name, value in row.items():
        if value is not None:
            shown = _needs_in_words(value) if name == "needs" else _in_words(value)
            click.echo(f"{name:15} " + ("\n" + " " * 16).join(map(printable, shown.splitlines())))


def _in_words(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _needs_in_words(needs: Mapping[str, int]) -> str:
    """A line for each name, those of the producer and the task first."""
    added = [name for name in needs if name.startswith(OF_PUSHQ)]
    own = [name for name in needs if name not in added]
    return "\n".join(
        [*(f"{needs[name]} of {name}" for name in own), *(f"{needs[name]} of {name}, added" for name in added)]
    )


@jobs.command()
@click.argument("job_id", type=click.UUID, metavar="ID")
@as_json
def why(job_id: UUID, as_json: bool) -> None:
    """Says why a queued job does not run, every cause in a sentence, the most lasting first.

    With --json, each cause comes with its numbers: what the job needs and who holds it, who is in front, and so on.
    Exit code 2 if there is no such job.

    \b
      pushq jobs why 0192f0c1-…
      pushq jobs why 0192f0c1-… --json
    """

    async def find(desk: Desk) -> tuple[Sequence[Row], Row | None]:
        return await desk.why(job_id), await desk.find(job_id)

    causes, row = at_desk(find)
    if row is None:
        raise UsageError(f"There is no job {job_id}; it may have been dropped after its retention.")
    show_causes(causes, as_json=as_json, empty=_why_none(row))


def _why_none(row: Row) -> str:
    match row["status"]:
        case Status.QUEUED:
            return "Nothing keeps the job waiting: the next free worker takes it."
        case Status.RUNNING:
            since = f"{row['started_at']:%Y-%m-%d %H:%M:%S}"
            return f"The job waits no more: {row['supervisor']} has run it since {since}."
        case Status.CANCELLED:
            return "The job waits no more: it was cancelled."
        case status:
            return f"The job waits no more: it has {status}."


_ids = click.argument("job_ids", type=click.UUID, nargs=-1, metavar="[ID...]")
_yes = click.option("--yes", "is_sure", is_flag=True, help="Do not ask before many jobs are changed.")


@jobs.command()
@_ids
@filters
@_yes
@as_json
def cancel(job_ids: tuple[UUID, ...], wanted: Filter, is_sure: bool, as_json: bool) -> None:
    """Ends unfinished jobs as cancelled: by id, or all that the options choose.

    The handler of a running job is stopped, and its outcome is refused. A running job that others wait for, or that
    holds units, is cancelling until its handler has stopped. Exit code 1 if a job named by id could not be cancelled.

    \b
      pushq jobs cancel 0192f0c1-…
      pushq jobs cancel --queue mail --status queued
    """
    if job_ids or wanted == Filter():
        _change("cancel", job_ids, wanted, as_json)
        return
    if wanted.status not in (None, Status.QUEUED, Status.RUNNING):
        raise click.UsageError(f"A job that has {wanted.status} cannot be cancelled: --status queued, or running.")
    statuses = [Status(wanted.status)] if wanted.status else [Status.QUEUED, Status.RUNNING]
    _change_all("cancel", wanted, statuses, is_sure, as_json)


@jobs.command()
@_ids
@filters
@_yes
@as_json
def retry(job_ids: tuple[UUID, ...], wanted: Filter, is_sure: bool, as_json: bool) -> None:
    """Makes jobs run again, now, with a clean count of failures and crashes: by id, or all that the options choose.

    Exit code 1 if a job named by id could not be retried.

    \b
      pushq jobs retry 0192f0c1-… 0192f0c2-…
      pushq jobs retry --status failed --task mail.welcome
    """
    if job_ids or wanted == Filter():
        _change("retry", job_ids, wanted, as_json)
        return
    if wanted.status is None or wanted.status == Status.RUNNING:
        raise click.UsageError("Say which jobs to retry: --status failed, cancelled, succeeded or queued.")
    _change_all("retry", wanted, [Status(wanted.status)], is_sure, as_json)


_WANTED = {"cancel": {"cancelled", "cancelling"}, "retry": {"queued"}}
"""What the functions of the database answer where they have done what was asked."""


def _change(verb: str, job_ids: tuple[UUID, ...], wanted: Filter, as_json: bool) -> None:
    """Changes each job and shows the results. Exit code 1 unless all results are as wanted."""
    if bool(job_ids) == (wanted != Filter()):
        raise click.UsageError("Name jobs by id, or choose them by --status, --task, --queue and so on.")

    async def change(desk: Desk) -> list[Row]:
        return [{"id": job_id, "did": await desk.change(verb, job_id)} for job_id in job_ids]

    rows = at_desk(change)
    show_rows(rows, ("id", "did"), as_json=as_json, empty="")
    if any(row["did"] not in _WANTED[verb] for row in rows):
        sys.exit(1)


def _change_all(verb: str, wanted: Filter, statuses: list[Status], is_sure: bool, as_json: bool) -> None:
    """Counts the jobs, asks, changes them, and shows what was done how often. Exit code 1 if a job could not be."""

    async def change(desk: Desk) -> Counter[str] | None:
        found = {status: await _counted(desk, replace(wanted, status=status)) for status in statuses}
        total = sum(map(len, found.values()))
        if not total:
            return None
        _make_sure(verb, total, is_sure)
        return await _changed(desk, verb, found, total)

    did = at_desk(change)
    rows = [{"did": what, "jobs": jobs} for what, jobs in (did or {}).items()]
    show_rows(rows, ("did", "jobs"), as_json=as_json, empty="No jobs match.")
    if set(did or ()) - _WANTED[verb] - {CHANGED}:
        sys.exit(1)


async def _counted(desk: Desk, wanted: Filter) -> list[Place]:
    progress = Progress()
    try:
        return await desk.find_all(wanted, lambda found: progress.show(f"{found:,} jobs match so far"))
    finally:
        progress.end()


def _make_sure(verb: str, total: int, is_sure: bool) -> None:
    jobs = f"{total:,} job" + "s" * (total != 1)
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{jobs} would be changed; --yes does it without a question.")
    click.confirm(f"{verb.capitalize()} {jobs}?", abort=True, err=True)


async def _changed(desk: Desk, verb: str, found: dict[Status, list[Place]], total: int) -> Counter[str]:
    """Whatever ends the change early, the sentence says how many jobs were changed. The rest are as before."""
    progress, did = Progress(), Counter[str]()
    try:
        for status, places in found.items():
            async for more in desk.change_all(verb, places, status):
                did += more
                progress.show(f"{did.total():,} of {total:,}")
    finally:
        progress.end()
        if did.total() < total:
            click.echo(f"Stopped after {did.total():,} of {total:,} jobs. The rest are as they were.", err=True)
    return did
