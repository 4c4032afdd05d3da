"""What holds of those that wait for a job's end."""

from __future__ import annotations

from collections.abc import Iterator

from tests.torture.history import Violation, Wait
from tests.torture.stories import FINISHED, Circumstances, Rule, Step, Story

TOLD_WITHIN = 4.0
"""Seconds after the end within which a wait ends, in calm: sooner than a waiter that hears nothing looks again. A
machine that was busy with other work gets as many more as the slowest call of the calm took."""


def waits_without_an_end(story: Story, _: Circumstances) -> Iterator[Violation]:
    """Whoever waits for a job that has ended is told, or finds out, whatever went wrong."""
    for wait in story.waits:
        if wait.ended_at is None and (True in story.stands or not story.births):
            yield story.finds("TOLD", f"{_wait(wait)} does not end")


def false_ends(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A wait ends with a status with which the job ended; one for a job that never was is refused."""
    ends = {step.after.status for step in story.ends}
    for wait in story.waits:
        if wait.ended_at is None:
            continue
        if (wait.found is None) == bool(story.births):
            yield story.finds("TOLD", f"{_wait(wait)} found {wait.found}, and the job was there {story.births} times")
        for status in {wait.heard, wait.found} & {*FINISHED} - ends:
            yield story.finds("TOLD", f"{_wait(wait)} ended with {status}, and the job with {sorted(ends)}")


def told_too_soon(story: Story, _: Circumstances) -> Iterator[Violation]:
    """Who has heard of an end finds the job ended, unless somebody has retried it since."""
    for wait in story.waits:
        if wait.ended_at is not None and wait.found in ("queued", "running") and not story.asked("retry"):
            yield story.finds("TOLD", f"{_wait(wait)} ended, and the job was still {wait.found}")


def told_before_the_handler_stopped(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """In calm, nobody is told that a job is cancelled while its handler goes on, if the cancel was but `cancelling`."""
    for wait in _in_calm(story, circumstances) if story.did("cancelling") else ():
        for run in story.runs:
            if wait.ended_at is not None and (run.ended_at is None or run.ended_at > wait.ended_at):
                yield story.finds("TOLD", f"{_wait(wait)} ended, and the handler of attempt {run.attempt} went on")


def untold_ends(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """Who listens is told. In a storm, only the ends that are told in the transaction of the end are told for certain:
    a pool tells of its outcomes afterwards, and its messages may be lost."""
    if story.asked("retry") or len(story.ends) != 1:
        return
    is_told_at_once = _is_told_at_once(story, story.ends[0])
    for wait in story.waits:
        if wait.could_hear and wait.heard is None and (is_told_at_once or circumstances.is_calm(wait.began_at)):
            yield story.finds("TOLD", f"{_wait(wait)} listened all the time, and nobody told of {story.ends[0]}")


def _is_told_at_once(story: Story, end: Step) -> bool:
    return end.after.token is None or end.after.token in {finish.token for finish in story.finishes}


def late_ends(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """In calm, a wait ends soon after the job."""
    within = TOLD_WITHIN + circumstances.slowest_call_in_calm
    for wait in _in_calm(story, circumstances):
        instants = [run.ended_at or run.began_at for run in story.runs] + [call.returned_at for call in story.calls]
        after = max([wait.began_at, *instants])
        if wait.ended_at is not None and wait.ended_at > after + within:
            yield story.finds("TOLD", f"{_wait(wait)} ended {wait.ended_at - after:.1f} s late")


def _in_calm(story: Story, circumstances: Circumstances) -> list[Wait]:
    return [wait for wait in story.waits if circumstances.is_calm(wait.began_at)]


def _wait(wait: Wait) -> str:
    end = "for ever" if wait.ended_at is None else f"until {wait.ended_at:.3f} s"
    return f"a wait from {wait.began_at:.3f} s {end} (heard {wait.heard})"


RULES_OF_WAITS: tuple[Rule, ...] = (
    waits_without_an_end,
    false_ends,
    told_too_soon,
    told_before_the_handler_stopped,
    untold_ends,
    late_ends,
)
