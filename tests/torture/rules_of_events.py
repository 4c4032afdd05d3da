"""What holds of the events of a job: what pushq says has happened is what the database has committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import NamedTuple

from tests.torture.history import Event, Violation
from tests.torture.stories import Circumstances, Rule, Step, Story

REMARKS = frozenset({"edited", "deleted", "note", "phase"})
"""Kinds that belong to no step."""
OPTIONAL = frozenset({"claimed", "succeeded", "snoozed"})
"""Kinds that are kept of queues with all events alone."""
FREE = frozenset({"snoozed", "released"})
"""Kinds that the rows do not tell apart: the job goes on at no charge."""


class Due(NamedTuple):
    """The event that a step must have written."""

    kind: str
    was: str
    became: str
    attempt: int
    transaction: int


def events_of_steps(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """Each step has its event, once, in its transaction and in its order, and each event its step."""
    if circumstances.history.events is None or not story.steps:
        return
    has_all = _has_all(story, circumstances)
    due = [due for step in story.steps if (due := _due(step)) and (has_all or due.kind not in OPTIONAL)]
    if story.steps[0].after.queue in circumstances.history.inserts_of:
        due = [*_inserted(story.steps), *due]
    written = [_written(event) for event in story.events if event.kind not in REMARKS]
    for expected, found in zip_longest(due, written):
        if expected != found:
            yield story.finds("EVENT", f"its next event should be {expected}, and is {found}")
            return


def breaks_between_events(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """In a queue with all events, each begins where the one before ended, and attempts ascend."""
    if not _has_all(story, circumstances):
        return
    told = [event for event in story.events if event.became is not None]
    for event in told[:1]:
        if event.was != "queued" and event.kind != "inserted":
            yield story.finds("EVENT", f"its first event is {_written(event)}")
    for one, other in pairwise(told):
        if one.became != other.was or (one.attempt or 0) > (other.attempt or 0):
            yield story.finds("EVENT", f"{_written(one)} is followed by {_written(other)}")
            return


def _inserted(steps: Sequence[Step]) -> Iterator[Due]:
    return (Due("inserted", "", "queued", 0, step.transaction) for step in steps if step.kind == "insert")


def _has_all(story: Story, circumstances: Circumstances) -> bool:
    return bool(story.steps) and story.steps[0].after.queue in circumstances.history.all_events_of


def _written(event: Event) -> Due:
    kind = "snoozed" if event.kind in FREE else event.kind
    return Due(kind, event.was or "", event.became or "", event.attempt or 0, event.transaction)


def _due(step: Step) -> Due | None:
    """None: this step has none."""
    if (kind := _kind(step)) is None:
        return None
    return Due(kind, step.before.status, step.after.status, step.after.attempt, step.transaction)


def _kind(step: Step) -> str | None:
    before, after = step.before, step.after
    match step.kind:
        case "claim":
            return "claimed"
        case "finish":
            return after.status
        case "reopen":
            return "retried"
        case "release":
            return (
                "requeued"
                if after.crashes > before.crashes
                else "retried"
                if after.failures > before.failures
                else "snoozed"
            )
        case "touch":
            return "cancelling" if after.is_cancelling > before.is_cancelling else None
    return None


RULES_OF_EVENTS: tuple[Rule, ...] = (events_of_steps, breaks_between_events)
