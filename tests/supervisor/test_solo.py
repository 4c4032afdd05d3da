"""How many solo pools may run side by side: as many as ordinary ones, and a few more where some are slow."""

from __future__ import annotations

import math

import pytest

from pushq.supervisor.solo import MOST_SLOW, SLOW_AFTER, until_slow, vacancies

QUICK, SLOW = SLOW_AFTER / 2, SLOW_AFTER * 2


@pytest.mark.parametrize(
    ("ages", "processes", "more"),
    [
        ([], 1, 1),
        ([], 3, 3),
        ([QUICK], 1, 0),
        ([QUICK], 2, 1),
        ([SLOW], 1, 1),
        ([SLOW, QUICK], 1, 0),
        ([SLOW, SLOW, QUICK], 2, 1),
        ([SLOW] * MOST_SLOW, 1, 1),
        ([SLOW] * (MOST_SLOW + 1), 1, 0),
        ([SLOW] * (MOST_SLOW + 2), 1, 0),
    ],
)
def test_a_slow_solo_pool_makes_room_for_the_next_up_to_a_limit(ages: list[float], processes: int, more: int) -> None:
    assert vacancies(ages, processes) == more


def test_the_next_solo_pool_may_start_when_the_oldest_quick_one_is_slow() -> None:
    assert until_slow([SLOW_AFTER - 2, SLOW_AFTER - 3, SLOW]) == 2
    assert until_slow([SLOW]) == until_slow([]) == math.inf
