"""How far back claims look: to the beginning, unless a pinned xmin horizon has made that slow."""

from __future__ import annotations

import random
from itertools import pairwise
from math import inf

import pytest

from pushq.pool import lookback as module
from pushq.pool.lookback import EVERYTHING, MARGIN, SHARE, SLICE, SLOW, Lookback, Span


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def look(clock: Clock, lookback: Lookback, *, seconds: float, jobs: int = 0, room: int = 10) -> Span:
    """Takes the next look, which takes so many seconds."""
    span, began = lookback.span, clock.now
    clock.now += seconds
    lookback.note(span, began=began, jobs=jobs, room=room)
    return span


def look_where_the_past_is_slow(clock: Clock, lookback: Lookback, *, dense: float, noise: float = 0.0) -> Span:
    """A look at a past whose last `dense` seconds take 0.1 ms each to pass. noise: seconds, of a busy server."""
    span = lookback.span
    newest, oldest = min(span.end, clock.now), max(span.start, clock.now - dense)
    return look(clock, lookback, seconds=0.0005 + noise + max(0.0, newest - oldest) * 0.0001)


def test_while_looks_are_quick_each_is_at_everything(clock: Clock) -> None:
    lookback = Lookback()
    for _ in range(3):
        assert look(clock, lookback, seconds=SLOW / 2) == EVERYTHING
    assert lookback.span == EVERYTHING
    assert lookback.slice_due_in == inf


def test_a_large_claim_may_take_its_time(clock: Clock) -> None:
    lookback = Lookback()
    look(clock, lookback, seconds=0.04, jobs=500, room=501)
    assert lookback.span == EVERYTHING


def test_after_a_slow_look_the_next_ones_are_at_what_became_due_since_and_at_the_past_in_turn(clock: Clock) -> None:
    lookback = Lookback()
    began = clock.now
    look(clock, lookback, seconds=0.1)

    past = look(clock, lookback, seconds=0.1)
    assert past == Span(-inf, began - MARGIN)
    newest = look(clock, lookback, seconds=0.001)
    assert newest == Span(began - MARGIN)
    assert newest.since == pytest.approx(clock.now - began + MARGIN, abs=0.2)
    assert newest.until is None


def test_the_past_takes_a_small_share_of_the_time_in_short_slices(clock: Clock) -> None:
    lookback, dense = Lookback(), 600.0
    for _ in range(200):  # finds how wide a slice may be
        look_where_the_past_is_slow(clock, lookback, dense=dense)
        clock.now += 0.01

    began, in_the_past, longest = clock.now, 0.0, 0.0
    while clock.now < began + 30:
        before = clock.now
        span = look_where_the_past_is_slow(clock, lookback, dense=dense)
        if span.end < inf:
            in_the_past += clock.now - before
            longest = max(longest, clock.now - before)
        clock.now += 0.002

    assert in_the_past < 30 / SHARE
    assert longest < 3 * SLICE


@pytest.mark.parametrize(("noise", "most"), [(0.0, 3.0), (0.004, 6.0), (0.03, 10.0)])
def test_all_of_the_past_is_seen_within_some_seconds(clock: Clock, noise: float, most: float) -> None:
    chance, lookback, dense = random.Random(1), Lookback(), 600.0
    unseen, began = clock.now - 500.0, clock.now
    seen_at: list[float] = []
    while clock.now < began + 30:
        span = look_where_the_past_is_slow(
            clock, lookback, dense=dense, noise=chance.expovariate(1 / noise) if noise else 0.0
        )
        if span.start <= unseen < span.end:
            seen_at.append(clock.now)
        clock.now += 0.002

    assert max(later - earlier for earlier, later in pairwise([began, *seen_at, clock.now])) < most


def test_when_the_past_is_quick_again_looks_are_at_everything(clock: Clock) -> None:
    lookback = Lookback()
    for _ in range(300):
        look_where_the_past_is_slow(clock, lookback, dense=600)
        clock.now += 0.01
    assert lookback.span != EVERYTHING

    began = clock.now
    while lookback.span != EVERYTHING:
        look_where_the_past_is_slow(clock, lookback, dense=0)
        clock.now += 0.01

    assert clock.now < began + 10


def test_one_stall_costs_one_look_more(clock: Clock) -> None:
    lookback = Lookback()
    look(clock, lookback, seconds=0.2)
    assert look(clock, lookback, seconds=0.001).start == -inf
    assert lookback.span == EVERYTHING


def test_a_look_that_left_jobs_behind_moves_nothing_forward(clock: Clock) -> None:
    lookback = Lookback()
    assert look(clock, lookback, seconds=0.1, jobs=10, room=10) == EVERYTHING
    began = clock.now
    assert look(clock, lookback, seconds=0.1) == EVERYTHING
    assert look(clock, lookback, seconds=0.1) == Span(-inf, began - MARGIN)
    assert look(clock, lookback, seconds=0.1, jobs=10, room=10) == Span(began - MARGIN) == lookback.newest


def test_a_backlog_that_is_found_in_the_past_is_looked_at_as_what_is_new(clock: Clock) -> None:
    lookback = Lookback()
    look(clock, lookback, seconds=0.1)
    look(clock, lookback, seconds=0.1, jobs=10, room=10)
    for _ in range(3):
        assert look(clock, lookback, seconds=0.1, jobs=10, room=10) == EVERYTHING
    look(clock, lookback, seconds=0.1)
    assert lookback.newest != EVERYTHING


def test_the_past_can_be_pressed_for_and_nothing_new_waits_for_it(clock: Clock) -> None:
    lookback = Lookback()
    for _ in range(200):
        look_where_the_past_is_slow(clock, lookback, dense=600)
        clock.now += 0.01

    lookback.press()
    spans = []
    while lookback.slice_due_in == 0:
        spans.append(look_where_the_past_is_slow(clock, lookback, dense=600))

    past = [span for span in spans if span.end < inf]
    assert past[-1].start == -inf
    assert all(earlier.start == later.end for earlier, later in pairwise(past))
    assert all(inf in (earlier.end, later.end) for earlier, later in pairwise(spans))


@pytest.mark.parametrize(("noise", "most"), [(0.004, 100), (0.016, 300), (0.04, 700)])
def test_a_busy_server_whose_times_vary_keeps_nobody_at_the_past(clock: Clock, noise: float, most: int) -> None:
    """An idle pool there looks at most so often in ten minutes, in which it is pressed thirty times."""
    for seed in range(5):
        chance, lookback, looks = random.Random(seed), Lookback(), 0
        for _ in range(30):
            lookback.press()
            pressed_at = clock.now
            while lookback.slice_due_in == 0:
                look(clock, lookback, seconds=0.002 + chance.expovariate(1 / noise))
                looks += 1
            assert clock.now - pressed_at < 5
            until = clock.now + 20
            while clock.now < until:
                look(clock, lookback, seconds=0.002 + chance.expovariate(1 / noise))
                looks += 1
                clock.now += min(lookback.slice_due_in, 20)

        assert looks <= most
