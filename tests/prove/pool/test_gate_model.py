"""The largest world of the gate's model, and that each part of the protocol is needed: without it a wake-up is lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from tests.pool.explorer import assert_loses_nothing, explore
from tests.pool.gate_model import Fault, Rules, World

# Pools that begin with one busy and one asleep come to the point at once. Notifications reach all pools at one time.
ONE_BUSY_ONE_ASLEEP = World(pools=2, start_settled=True, notices_travel=False)
ONE_BUSY = World(start_settled=True)
TWO_AND_TWO = World(pools=2, inserters=2, notices_travel=False, renewals=False)


def test_two_pools_lose_no_wake_up_of_two_inserters() -> None:
    assert_loses_nothing(explore(TWO_AND_TWO), at_least=80_000)


@pytest.mark.timeout(240)  # half a minute on a quiet machine
def test_two_pools_amid_streams_lose_no_wake_up_of_two_inserters() -> None:
    assert_loses_nothing(explore(replace(TWO_AND_TWO, streams=True)), at_least=100_000)


@dataclass(frozen=True)
class Mistake:
    """A world in which it costs a wake-up, and in how few steps."""

    steps: int
    rules: Rules
    world: World = field(default_factory=World)


MISTAKES = {
    "claims before it opens the gate, and not after": Mistake(8, Rules(claims_after_opening=False)),
    "notes no passers": Mistake(8, Rules(notes_passers=False)),
    "notes passers before it opens the gate": Mistake(8, Rules(notes_before_opening=True)),
    "does not note who has prepared": Mistake(10, Rules(notes_prepared=False), World(prepare=True)),
    "looks for passers once": Mistake(11, Rules(looks_until_all_are_gone=False)),
    "does not claim when the last passer has gone": Mistake(10, Rules(claims_after_last_look=False)),
    "takes another pool's opening for its own": Mistake(17, Rules(trusts_only_its_own_opening=False), TWO_AND_TWO),
    "renews a gate that ran out, and notes no passers": Mistake(
        11, Rules(notes_when_found_shut=False), replace(ONE_BUSY, faults=(Fault.EXPIRY,))
    ),
    "believes in an opening that failed half-way": Mistake(
        13,
        Rules(failed_opening_is_forgotten=False),
        replace(ONE_BUSY, faults=(Fault.EXPIRY, Fault.HICCUP), most_faults=2),
    ),
    "forgets a ring that comes while it is awake": Mistake(12, Rules(remembers_rings_while_awake=False)),
    "opens the gate before it listens": Mistake(
        11,
        Rules(opens_only_while_it_hears=False, rung_when_it_hears_again=False, begins_anew_when_it_hears_again=False),
        World(start_deaf=True),
    ),
    "does not claim when it listens again": Mistake(
        7, Rules(rung_when_it_hears_again=False), World(faults=(Fault.RESTART,))
    ),
    "does not begin anew when it listens again": Mistake(
        13, Rules(begins_anew_when_it_hears_again=False), World(faults=(Fault.RESTART,))
    ),
    "shuts the gate and rings nobody": Mistake(6, Rules(rings_when_it_shuts=False), ONE_BUSY_ONE_ASLEEP),
    "rings everybody before it shuts the gate": Mistake(12, Rules(rings_before_it_shuts=True), ONE_BUSY_ONE_ASLEEP),
    "wakes because the gate was shut, and believes that it is open": Mistake(
        8, Rules(begins_anew_when_somebody_shut=False), ONE_BUSY_ONE_ASLEEP
    ),
    "only renews when somebody has shut the gate": Mistake(
        13, Rules(begins_anew_when_somebody_shut=False, renews_when_somebody_shut=True), ONE_BUSY_ONE_ASLEEP
    ),
    "keeps the gate in a row": Mistake(10, Rules(gate_is_a_row=True), World(old_snapshots=True)),
    "runs on a database that releases locks too early": Mistake(9, Rules(locks_outlive_invisibility=False)),
    "rings once in a transaction, even if a savepoint took that back": Mistake(
        11, Rules(savepoint_takes_its_ring_back=False), World(savepoints=True)
    ),
    "sleeps for longer than its gate stays open": Mistake(
        10, Rules(outlasts_its_sleepers=False), World(faults=(Fault.EXPIRY,))
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wake_up_is_lost_by_a_protocol_that(mistake: Mistake) -> None:
    found = explore(replace(mistake.world, rules=mistake.rules))

    assert found.lost is not None, f"{found.states} states, and none is lost."
    print(*found.lost, sep="\n")
    assert len(found.lost) == mistake.steps
