"""What holds of jobs that somebody cancels while they run and others wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from tests.torture.history import Violation
from tests.torture.stories import Circumstances, Rule, Step, Story, described

STOPS_WITHIN = 4.0
"""Seconds after the cancel within which a handler that can be stopped has stopped, in calm."""


def ends_a_cancel(step: Step) -> bool:
    """Whether it ends a job that was being cancelled as cancelled, which needs no run: its process may have died."""
    return step.kind == "finish" and step.before.is_cancelling and step.after.status == "cancelled"


def cancels_that_were_not(story: Story, _: Circumstances) -> Iterator[Violation]:
    """Of a job that pushq.cancel called `cancelling`, the database says so too."""
    is_marked = any(step.after.is_cancelling for step in story.steps)
    if story.did("cancelling") and not is_marked:
        yield story.finds("LOST", "a client was answered 'cancelling', and the job never was")


def cancelled_jobs_that_go_on(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job that is being cancelled ends, and is not queued again, but within the transaction that ends it."""
    for step, following in zip_longest(story.steps, story.steps[1:]):
        is_being_cancelled = step.before.is_cancelling and step.before.status == "running"
        if not is_being_cancelled or step.kind in ("touch", "finish"):
            continue
        if not (following and following.transaction == step.transaction and ends_a_cancel(following)):
            yield story.finds("FENCE", f"{step} was of a job that is being cancelled, and left it {step.after.status}")


def handlers_that_go_on(story: Story, circumstances: Circumstances) -> Iterator[Violation]:
    """In calm, the handler of a job that was cancelled is stopped."""
    for call in story.calls:
        if call.did not in ("cancelled", "cancelling") or not circumstances.is_calm(call.invoked_at):
            continue
        for run in story.runs:
            is_a_pool_s = run.kept_until is None
            if is_a_pool_s and run.began_at <= call.invoked_at and _ends_after(run.ended_at, call.returned_at):
                yield story.finds(
                    "TOLD", f"it was {call.did} at {call.returned_at:.3f} s, and {described(run)} went on"
                )


def _ends_after(ended_at: float | None, cancelled_at: float) -> bool:
    return ended_at is None or ended_at > cancelled_at + STOPS_WITHIN


RULES_OF_CANCELS: tuple[Rule, ...] = (cancels_that_were_not, cancelled_jobs_that_go_on, handlers_that_go_on)
