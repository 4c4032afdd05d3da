"""What holds of guests' outcomes. That nobody else runs what a guest keeps is a rule of all runs: see `kept_until`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

from tests.torture.history import Finish, Violation
from tests.torture.stories import Circumstances, Rule, Step, Story


def answers_to_guests(story: Story, _: Circumstances) -> Iterator[Violation]:
    """An outcome that pushq.finish called true is in the table, and one that it called false changed nothing."""
    for token, finishes in _by_token(story).items():
        written = [step for step in story.steps if _writes_outcome(step, token)]
        counted = [finish.kind for finish in finishes if finish.has_counted]
        may_have_counted = [finish.kind for finish in finishes if finish.has_counted is not False]
        if len(counted) > len(written):
            yield story.finds("LOST", f"{len(counted)} outcomes of claim {token} counted, and {len(written)} are there")
        elif len(written) > len(may_have_counted):
            yield story.finds("FENCE", f"an outcome of claim {token} was refused, and {written[-1]} brought it")
        for step in written:
            if may_have_counted and _kinds(step).isdisjoint(may_have_counted):
                yield story.finds("LOST", f"{step} is not the outcome that was given, {', '.join(may_have_counted)}")


def crashes_without_a_charge(story: Story, _: Circumstances) -> Iterator[Violation]:
    """A job that a guest held and has said nothing of goes on charged with a crash."""
    held = {run.token for run in story.runs if run.kept_until is not None}
    said = {finish.token for finish in story.finishes if finish.has_counted is not False}
    for step in story.steps:
        if step.kind == "release" and step.before.token in held - said and step.after.crashes == step.before.crashes:
            yield story.finds("ATT", f"{step} took it from a guest that had said nothing, and charged no crash")


def _by_token(story: Story) -> dict[UUID, list[Finish]]:
    of_token = defaultdict[UUID, list[Finish]](list)
    for finish in story.finishes:
        of_token[finish.token].append(finish)
    return of_token


def _writes_outcome(step: Step, token: UUID) -> bool:
    if step.before.token != token or step.after.crashes > step.before.crashes:
        return False
    return step.kind == "release" or (step.kind == "finish" and step.after.token == token)


def _kinds(step: Step) -> set[str]:
    """Which outcome it may be."""
    if step.kind == "finish":
        return {step.after.status}
    return {"retried"} if step.after.failures > step.before.failures else {"snoozed", "released"}


RULES_OF_GUESTS: tuple[Rule, ...] = (answers_to_guests, crashes_without_a_charge)
