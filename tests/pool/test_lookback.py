"""How far back claims look: to the beginning, unless a pinned xmin horizon has made that slow."""

from __future__ import annotations

import pytest

from pushq.pool import lookback as module
from pushq.pool.lookback import MARGIN, SHARE, SLOW, Lookback


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def take_a_full_look(clock: Clock, lookback: Lookback, *, seconds: float, jobs: int = 0, room: int = 10) -> None:
    began = clock.now
    clock.now += seconds
    lookback.note_full(began=began, jobs=jobs, room=room)


def test_quick_looks_are_always_full(clock: Clock) -> None:
    lookback = Lookback()
    take_a_full_look(clock, lookback, seconds=SLOW / 2)
    assert lookback.seconds is None
    assert lookback.full_look_in == 0


def test_a_large_claim_may_take_its_time(clock: Clock) -> None:
    lookback = Lookback()
    take_a_full_look(clock, lookback, seconds=0.04, jobs=500, room=501)
    assert lookback.seconds is None


def test_after_a_slow_look_only_what_became_due_since_is_looked_at(clock: Clock) -> None:
    lookback = Lookback()
    take_a_full_look(clock, lookback, seconds=0.1)
    clock.now += 1.0
    assert lookback.seconds == pytest.approx(1.1 + MARGIN)


def test_a_full_look_is_due_after_a_multiple_of_the_last_one_s_time(clock: Clock) -> None:
    lookback = Lookback()
    take_a_full_look(clock, lookback, seconds=0.1)
    assert lookback.full_look_in == pytest.approx(0.1 * SHARE)
    clock.now += 0.1 * SHARE + 0.001
    assert lookback.seconds is None


def test_a_full_look_that_left_jobs_behind_moves_nothing_forward(clock: Clock) -> None:
    lookback = Lookback()
    take_a_full_look(clock, lookback, seconds=0.1, jobs=10, room=10)
    assert lookback.seconds is None
    take_a_full_look(clock, lookback, seconds=0.1)
    clock.now += 2
    take_a_full_look(clock, lookback, seconds=0.1, jobs=10, room=10)
    assert lookback.seconds == pytest.approx(2.2 + MARGIN)


def test_a_full_look_can_be_demanded(clock: Clock) -> None:
    lookback = Lookback()
    take_a_full_look(clock, lookback, seconds=0.1)
    lookback.demand_full()
    assert lookback.seconds is None
