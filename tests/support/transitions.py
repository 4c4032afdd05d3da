"""Where jobs go, as the models see it, against where pushq.job says that they may."""

from __future__ import annotations

from pushq.job import TRANSITIONS, Status


def check_transition(before: str, after: str) -> None:
    """Raises AssertionError for a change of status that is none of TRANSITIONS."""
    assert after == before or Status(after) in TRANSITIONS[Status(before)], f"{before} → {after}"
