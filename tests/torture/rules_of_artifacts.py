"""What holds of the files that handlers leave with their jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from tests.torture.history import File, Violation
from tests.torture.stories import Circumstances, CommonRule, Rule, Story


def files_of_no_job(story: Story, _: Circumstances) -> Iterator[Violation]:
    """An artifact is there as long as its job."""
    for file in story.files if not story.stands else ():
        yield story.finds("FILE", f"{_file(file)} is there, and the job is not")


def files_in_parts(story: Story, _: Circumstances) -> Iterator[Violation]:
    """An artifact is complete: its pieces are what its row says, and what the handler has written."""
    written = {(run.token, name): content for run in story.runs for name, content in run.files.items()}
    for file in story.files:
        for said, content in (("its row", file.row), ("the handler", written.get((file.token, file.name), file.row))):
            if file.pieces != content:
                yield story.finds("FILE", f"{_file(file)} has pieces of {file.pieces}, and {said} says {content}")


def lost_files(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """What a handler was told to be complete is there, unless a later attempt has replaced the artifact."""
    attempts = {file.name: file.attempt for file in story.files}
    for run in story.runs if circumstances.history.files is not None else ():
        for name in run.files:
            if attempts.get(name, -1) < run.attempt:
                yield story.finds("FILE", f"attempt {run.attempt} completed {name!r}; there is {attempts.get(name)}")


def files_of_another_attempt(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job that succeeded has the artifacts of the attempt that succeeded, and no others: each attempt of the torture
    writes the same names."""
    row = story.stands.get(True)
    for file in story.files if row and row.status == "succeeded" else ():
        if row and file.token != row.token:
            yield story.finds("FILE", f"{_file(file)} is there, and the job has succeeded under token {row.token}")


def completions_by_strangers(_: Sequence[Story], circumstances: Circumstances) -> Iterator[Violation]:
    """An artifact becomes complete only while its job is held under the token of who wrote it."""
    history, held, place = circumstances.history, dict[UUID, UUID | None](), 0
    for completion in history.completions:
        for change in history.changes[place : completion.place]:
            if row := change.after or change.before:
                held[row.job] = row.token if change.after and row.status == "running" else None
        place = max(place, completion.place)
        if held.get(completion.job) != completion.token:
            what = f"{completion.name!r} of job {completion.job} was completed in transaction {completion.transaction}"
            yield Violation("FILE", f"{what} under token {completion.token}; {held.get(completion.job)} held the job")


def _file(file: File) -> str:
    return f"the artifact {file.name!r} of attempt {file.attempt} (token {file.token})"


RULES_OF_ARTIFACTS: tuple[Rule, ...] = (files_of_no_job, files_in_parts, lost_files, files_of_another_attempt)
COMMON_RULES_OF_ARTIFACTS: tuple[CommonRule, ...] = (completions_by_strangers,)
