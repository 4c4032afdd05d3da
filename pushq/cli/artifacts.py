"""pushq artifacts."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import click

from pushq.cli.desk import at_desk
from pushq.cli.options import as_json
from pushq.cli.output import Progress, show_rows
from pushq.desk import Desk
from pushq.desk.save import folder_at, refuse_paths, refuse_taken, save
from pushq.errors import ArtifactUnknown, NotSaved, UsageError
from pushq.exporter.lines import printable
from pushq.reading import Artifact

LISTED = ("name", "content_type", "size", "attempt", "created_at", "sha256")


@click.group()
def artifacts() -> None:
    """Lists and saves files that handlers have left with a job.

    \b
      pushq artifacts list 0192f0c1-…
      pushq artifacts save 0192f0c1-… report.csv --into reports
    """


_id = click.argument("job_id", type=click.UUID, metavar="ID")


@artifacts.command("list")
@_id
@as_json
def list_artifacts(job_id: UUID, as_json: bool) -> None:
    """Lists the artifacts of a job, by name. Exit code 2 if there is no such job.

    \b
      pushq artifacts list 0192f0c1-… --json
    """
    rows = [asdict(one) for one in at_desk(lambda desk: _of_job(desk, job_id))]
    show_rows(rows, LISTED, as_json=as_json, empty=f"Job {job_id} has no artifacts.")


@artifacts.command("save")
@_id
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="The folder to save into; made if missing; else the current folder.",
)
@click.option("--overwrite", "overwrites", is_flag=True, help="Replace files of the same names.")
def save_artifacts(job_id: UUID, names: tuple[str, ...], into: Path, overwrites: bool) -> None:
    """Saves artifacts of a job as files: all, or those that are named.

    Each file has the artifact's name, and appears when its bytes are whole and their SHA-256 is right. Nothing is
    written outside the folder.

    What cannot be saved is named, and the others are saved: exit code 1. Exit code 2, and nothing is saved, if there
    is no such job or artifact, or if a file has the name.

    \b
      pushq artifacts save 0192f0c1-…
      pushq artifacts save 0192f0c1-… report.csv --into reports --overwrite
    """

    async def save_all(desk: Desk) -> None:
        chosen = _chosen(await _of_job(desk, job_id), job_id, names)
        missed = 0
        refuse_paths(chosen)
        with folder_at(into) as folder:
            if not overwrites:
                refuse_taken(folder, chosen)
            for one in chosen:
                try:
                    await _save(desk, folder, one, overwrites=overwrites)
                except (NotSaved, ArtifactUnknown, UsageError) as error:
                    missed += 1
                    click.echo(f"pushq: {printable(str(error))}", err=True)
                else:
                    click.echo(printable(str(into / one.name)))
        if missed:
            raise NotSaved(f"{missed} of {len(chosen)} artifacts {'was' if missed == 1 else 'were'} not saved.")

    with _tidy_when_terminated():
        at_desk(save_all)


async def _save(desk: Desk, folder: int, one: Artifact, *, overwrites: bool) -> None:
    progress = Progress()
    try:
        async with aclosing(desk.pieces_of(one)) as pieces:
            await save(
                folder,
                one,
                pieces,
                lambda done: progress.show(f"{printable(one.name)} {done:,} of {one.size:,} bytes"),
                overwrites=overwrites,
            )
    finally:
        progress.end()


async def _of_job(desk: Desk, job_id: UUID) -> list[Artifact]:
    """Raises UsageError without artifacts of a job that is not there."""
    if not (found := await desk.artifacts_of(job_id)) and await desk.find(job_id) is None:
        raise UsageError(f"There is no job {job_id}; it may have been dropped after its retention.")
    return found


def _chosen(found: Sequence[Artifact], job_id: UUID, names: Sequence[str]) -> list[Artifact]:
    by_name = {one.name: one for one in found}
    if missing := [name for name in names if name not in by_name]:
        known = ", ".join(map(repr, by_name)) or "none"
        raise UsageError(f"Job {job_id} has no artifact {missing[0]!r}; it has {known}.")
    if not found:
        raise UsageError(f"Job {job_id} has no artifacts.")
    return [by_name[name] for name in dict.fromkeys(names)] if names else [*found]


@contextmanager
def _tidy_when_terminated() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, so that no partial file is left."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
