"""A table of transitions that lacks one which jobs make is told by the models."""

from __future__ import annotations

import pytest

from pushq.job import TRANSITIONS, Status
from tests.support import transitions

MOVES = [(before, after) for before, following in TRANSITIONS.items() for after in sorted(following)]


@pytest.mark.parametrize(("before", "after"), MOVES)
def test_a_move_that_the_table_lacks_is_told(monkeypatch: pytest.MonkeyPatch, before: Status, after: Status) -> None:
    monkeypatch.setattr(transitions, "TRANSITIONS", {**TRANSITIONS, before: TRANSITIONS[before] - {after}})
    with pytest.raises(AssertionError, match=f"{before} → {after}"):
        transitions.check_transition(before, after)


def test_jobs_do_not_finish_without_having_run() -> None:
    for after in (Status.SUCCEEDED, Status.FAILED):
        with pytest.raises(AssertionError):
            transitions.check_transition(Status.QUEUED, after)
