"""The largest worlds of the model of lanes, and that each part of the protocol is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from tests.pool.explorer import assert_loses_nothing, explore
from tests.pool.lanes_model import Fault, Need, Payment, Rules, World
from tests.pool.test_lanes_model import RUNS, RUNS_AT_A_GUEST, TWO_QUEUES

TWO = World((Need({0: 1}), Need({0: 1})))
TWO_IN_TWO_QUEUES = World((Need({0: 1}), Need({0: 1}, queue=1)), pools=TWO_QUEUES)
ONE_AT_A_GUEST = World((Need({0: 1}, begins=RUNS_AT_A_GUEST), Need({0: 1})), cancels=True)
ONE_RESERVES = World(
    (Need({0: 1}, begins=RUNS_AT_A_GUEST), Need({0: 2}), Need({0: 1})),
    capacities=(2,),
    pools=((0,),),
    cancels=True,
    overtakes=True,
)
A_LARGE_ONE_RUNS = World((Need({0: 2}, begins=RUNS), Need({0: 1}), Need({0: 1})), capacities=(2,), start_settled=True)
ONE_WITH_TWO_NAMES_RUNS = World(
    (Need({0: 1, 1: 1}, begins=RUNS), Need({0: 1}), Need({1: 1})), capacities=(1, 1), start_settled=True
)
ONE_RUNS_AND_ONE_IS_PLAIN = World((Need({0: 1}, begins=RUNS), Need({}), Need({0: 1})), start_settled=True)
CLOSED = World((Need({0: 1}), Need({0: 1})), capacities=(0,), change=(0, 2))
RATED = World((Need({0: 1}), Need({0: 1})), capacities=(9,), rated=frozenset({0}), follows=False, start_settled=True)
LOSES_A_REPLY = World(
    (Need({0: 1}), Need({0: 1}, begins=RUNS), Need({0: 1}, queue=1)),
    capacities=(2,),
    pools=TWO_QUEUES,
    workers=2,
    follows=False,
    start_settled=True,
    faults=(Fault.LOST_REPLY,),
)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("world", "at_least"),
    [
        (World((Need({0: 1}), Need({0: 1}), Need({0: 1}))), 70_000),
        (World((Need({}), Need({0: 1}), Need({0: 1}))), 90_000),
        (A_LARGE_ONE_RUNS, 40_000),
        (ONE_WITH_TWO_NAMES_RUNS, 40_000),
        (LOSES_A_REPLY, 60_000),
    ],
)
def test_two_pools_leave_no_freed_unit_to_one_that_sleeps(world: World, at_least: int) -> None:
    assert_loses_nothing(explore(world), at_least=at_least)


@dataclass(frozen=True)
class Mistake:
    """A world in which it costs a wake-up, and in how few steps."""

    steps: int
    rules: Rules
    world: World


MISTAKES = {
    "rings nobody at a retry": Mistake(28, Rules(rings_at_retry=False), replace(TWO, retries=True)),
    "rings nobody when a guest ends": Mistake(22, Rules(rings_at_guests_end=False), ONE_AT_A_GUEST),
    "rings nobody at a cancel": Mistake(22, Rules(rings_at_cancel=False), ONE_AT_A_GUEST),
    "rings nobody at the cancel of a job that reserves": Mistake(
        16, Rules(rings_at_cancel_in_line=False), ONE_RESERVES
    ),
    "rings nobody at a requeue": Mistake(
        17, Rules(rings_at_requeue=False), replace(TWO_IN_TWO_QUEUES, faults=(Fault.DEATH,))
    ),
    "does not ring for a dead pool that held no job": Mistake(
        19, Rules(requeues_for_pools_without_jobs=False), replace(TWO, faults=(Fault.DEATH,))
    ),
    "rings nobody at a capacity's change": Mistake(19, Rules(rings_at_change=False), CLOSED),
    "asks before the commit who waits": Mistake(22, Rules(rings_all_before_commit=False), ONE_AT_A_GUEST),
    "owes no look": Mistake(28, Rules(owes_a_look=False), TWO),
    "pays for a look without ringing": Mistake(28, Rules(pays=Payment.NEVER), TWO_IN_TWO_QUEUES),
    "counts jobs, and not what they need": Mistake(17, Rules(pays=Payment.UNLESS_AS_MANY), A_LARGE_ONE_RUNS),
    "looks before its worker is free, and is busy by then": Mistake(
        17, Rules(rings_when_busy=False), ONE_RUNS_AND_ONE_IS_PLAIN
    ),
    "does not ring when a freed unit finds it busy": Mistake(
        17, Rules(finisher_rings_when_busy=False), ONE_RUNS_AND_ONE_IS_PLAIN
    ),
    "drains, and leaves its look to nobody": Mistake(20, Rules(rings_when_it_leaves=False), replace(TWO, leaves=True)),
    "takes for new what a lost claim had taken": Mistake(28, Rules(counts_what_was_lost=True), LOSES_A_REPLY),
    "forgets a ring that failed": Mistake(
        29, Rules(rings_again_after_a_failure=False), replace(TWO_IN_TWO_QUEUES, faults=(Fault.FAILED_RING,))
    ),
    "forgets a ring that comes while it is awake": Mistake(12, Rules(remembers_rings_while_awake=False), TWO),
    "does not wait for the next token": Mistake(15, Rules(waits_for_tokens=False), RATED),
    "asks for a fitting job and for the next token at two instants": Mistake(
        16, Rules(asks_at_one_instant=False), RATED
    ),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_freed_unit_is_left_by_a_protocol_that(mistake: Mistake) -> None:
    found = explore(replace(mistake.world, rules=mistake.rules))

    assert found.lost is not None, f"{found.states} states, and none is lost."
    print(*found.lost, sep="\n")
    assert len(found.lost) == mistake.steps
