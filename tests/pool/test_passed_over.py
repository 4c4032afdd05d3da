"""Jobs that cannot be claimed are tried again, and cost a pool a bounded share of its time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from uuid import UUID, uuid4

import anyio

from pushq.pool.passed_over import MOST, SHARE, SPACING, PassedOver
from tests.support.virtual_time import run_in_virtual_time


def test_each_is_tried_again_less_and_less_often_and_at_least_once_in_so_many_seconds() -> None:
    async def watch(_: Callable[[], float]) -> list[float]:
        passed_over, job, tries = PassedOver(), uuid4(), list[float]()
        passed_over.put([job], took=0.001)
        while len(tries) < 20:
            await anyio.sleep_until(passed_over.next_try_at)
            assert passed_over.due(10) == [job]
            tries.append(anyio.current_time())
            passed_over.put([job], took=0.001)
        return tries

    tries = run_in_virtual_time(watch)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[0] < 3
    assert 29 <= min(pauses[8:]) <= max(pauses) <= 60


def test_however_many_there_are_and_however_long_they_take_a_pool_has_its_time_for_others() -> None:
    async def watch(_: Callable[[], float]) -> tuple[Counter[UUID], PassedOver]:
        passed_over, tries = PassedOver(), Counter[UUID]()
        passed_over.put([uuid4() for _ in range(2 * MOST)], took=0.0)
        slow = next(iter(passed_over._jobs))
        with anyio.move_on_after(120):
            while True:
                await anyio.sleep_until(passed_over.next_try_at)
                for job in passed_over.due(10):
                    tries[job] += 1
                    passed_over.put([job], took=15.0 if job == slow else 0.0)
        tries[slow] *= 15
        return tries, passed_over

    tries, passed_over = run_in_virtual_time(watch)
    assert len(passed_over) == MOST == len(tries)
    assert sum(tries.values()) <= 120 / SPACING * 1.5
    assert max(tries.values()) <= 120 / SHARE + 15


def test_who_was_claimed_or_is_gone_is_forgotten() -> None:
    async def watch(_: Callable[[], float]) -> None:
        passed_over, one, other = PassedOver(), uuid4(), uuid4()
        passed_over.put([one, other], took=0.0)
        passed_over.forget([one, uuid4()])
        assert passed_over.not_among([one, other]) == [one]
        assert len(passed_over) == 1

    run_in_virtual_time(watch)
