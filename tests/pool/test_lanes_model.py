"""The protocol of lanes, by its model: no freed unit is left to a pool that sleeps."""

from __future__ import annotations

import pytest

from tests.pool.explorer import assert_loses_nothing, explore
from tests.pool.lanes_model import GUEST, Fault, Job, JobIs, Need, World

RUNS = Job(JobIs.RUNNING, 0)
RUNS_AT_A_GUEST = Job(JobIs.RUNNING, GUEST)
TWO_QUEUES = ((0,), (1,))


def test_the_unit_of_a_job_that_ends_is_taken() -> None:
    assert_loses_nothing(explore(World((Need({0: 1}), Need({0: 1})))), at_least=8_000)


def test_the_unit_of_a_job_that_is_to_be_retried_is_taken() -> None:
    assert_loses_nothing(explore(World((Need({0: 1}), Need({0: 1})), retries=True)), at_least=9_000)


def test_a_unit_is_taken_by_a_pool_of_another_queue() -> None:
    world = World((Need({0: 1}), Need({0: 1}, queue=1)), pools=TWO_QUEUES)
    assert_loses_nothing(explore(world), at_least=5_000)


def test_a_pool_that_is_busy_by_the_time_it_was_to_look_leaves_the_unit_to_the_other() -> None:
    world = World((Need({0: 1}, begins=RUNS), Need({}), Need({0: 1})), start_settled=True)
    assert_loses_nothing(explore(world), at_least=40_000)


def test_what_a_guest_holds_is_taken_when_it_ends_or_is_cancelled() -> None:
    world = World((Need({0: 1}, begins=RUNS_AT_A_GUEST), Need({0: 1})), cancels=True)
    assert_loses_nothing(explore(world), at_least=1_000)


def test_what_a_job_in_line_reserves_is_taken_when_the_job_is_cancelled() -> None:
    jobs = (Need({0: 1}, begins=RUNS_AT_A_GUEST), Need({0: 2}), Need({0: 1}))
    world = World(jobs, capacities=(2,), pools=((0,),), cancels=True, overtakes=True)
    assert_loses_nothing(explore(world), at_least=3_000)


def test_a_capacity_that_is_raised_is_used() -> None:
    world = World((Need({0: 1}), Need({0: 1})), capacities=(0,), change=(0, 2))
    assert_loses_nothing(explore(world), at_least=8_000)


def test_the_next_token_of_a_rate_is_taken() -> None:
    jobs = (Need({0: 1}), Need({0: 1}))
    world = World(jobs, capacities=(9,), rated=frozenset({0}), follows=False, start_settled=True)
    assert_loses_nothing(explore(world), at_least=10_000)


def test_a_pool_that_drains_leaves_the_units_to_the_other() -> None:
    assert_loses_nothing(explore(World((Need({0: 1}), Need({0: 1})), leaves=True)), at_least=9_000)


@pytest.mark.parametrize("pools", [((0,), (0,)), TWO_QUEUES])
def test_a_pool_that_dies_leaves_the_units_to_the_other(pools: tuple[tuple[int, ...], ...]) -> None:
    jobs = (Need({0: 1}), Need({0: 1}, queue=pools[1][0]))
    assert_loses_nothing(explore(World(jobs, pools=pools, faults=(Fault.DEATH,))), at_least=7_000)


def test_a_ring_that_fails_is_repeated() -> None:
    jobs = (Need({0: 1}), Need({0: 1}, queue=1))
    assert_loses_nothing(explore(World(jobs, pools=TWO_QUEUES, faults=(Fault.FAILED_RING,))), at_least=7_000)
