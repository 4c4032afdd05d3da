"""The schedules: every order of the sessions' steps, once."""

from __future__ import annotations

from math import comb

import pytest

from tests.isolation.operations import PARTS, sessions_of
from tests.isolation.permute import interleavings, text_of


def test_every_order_of_steps_is_there_once() -> None:
    claim, cancel = PARTS["claim"], PARTS["cancel_q1"]
    pair, triple, twins = (
        sessions_of(claim, cancel),
        sessions_of(claim, cancel, PARTS["fold"]),
        sessions_of(claim, claim),
    )
    for sessions, begins_apart, expected in (
        (pair, True, comb(6, 3)),
        (pair, False, comb(4, 2)),
        (triple, True, comb(9, 3) * comb(6, 3)),
        (triple, False, comb(6, 2) * comb(4, 2)),
        (twins, True, comb(6, 3) // 2),
    ):
        texts = [text_of(sessions, order) for order in interleavings(sessions, begins_apart=begins_apart)]
        assert len(texts) == len({*texts}) == expected


def test_the_schedule_that_is_asked_for_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = sessions_of(PARTS["claim"], PARTS["cancel_q1"])
    monkeypatch.setenv("PUSHQ_TEST_SCHEDULE", "s1.begin s1.claim s2.begin s1.commit s2.cancel_q1 s2.commit")
    assert interleavings(sessions) == [(0, 0, 1, 0, 1, 1)]

    monkeypatch.setenv("PUSHQ_TEST_SCHEDULE", "s1.begin s1.clame s1.commit")
    with pytest.raises(ValueError, match=r"is no schedule of this test; one is 's1.begin s1.claim s1.commit s2.begin"):
        interleavings(sessions)
