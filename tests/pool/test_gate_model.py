"""The gate's protocol, by its model: it loses no wake-up, and each of its parts is needed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from tests.pool.gate_model import Exploration, Fault, Rules, World, explore

# Pools that begin with one busy and one asleep come to the point at once. Notifications reach all pools at one time.
ONE_BUSY_ONE_ASLEEP = World(pools=2, start_settled=True, notices_travel=False)
ONE_BUSY = World(start_settled=True)
TWO_AND_TWO = World(pools=2, inserters=2, notices_travel=False, renewals=False)


def assert_loses_nothing(found: Exploration, *, at_least: int) -> None:
    assert found.lost is None, "\n".join(found.lost)
    assert found.stuck == 0
    assert found.states >= at_least


def test_one_pool_loses_no_wake_up_of_two_inserters() -> None:
    assert_loses_nothing(explore(World(inserters=2)), at_least=6_500)


def test_two_pools_lose_no_wake_up_of_one_inserter() -> None:
    assert_loses_nothing(explore(World(pools=2)), at_least=16_000)


def test_two_pools_lose_no_wake_up_of_two_inserters() -> None:
    assert_loses_nothing(explore(TWO_AND_TWO), at_least=80_000)


def test_a_pool_that_shuts_the_gate_takes_no_wake_up_from_one_that_sleeps() -> None:
    assert_loses_nothing(explore(ONE_BUSY_ONE_ASLEEP), at_least=17_000)


def test_a_pool_with_one_free_worker_of_two_is_woken() -> None:
    assert_loses_nothing(explore(World(workers=2, inserters=2)), at_least=3_500)


def test_a_pool_that_drains_takes_no_wake_up_from_the_other() -> None:
    assert_loses_nothing(explore(World(pools=2, leave=True, notices_travel=False)), at_least=5_000)


def test_pools_that_begin_deaf_lose_no_wake_up() -> None:
    assert_loses_nothing(explore(World(pools=2, start_deaf=True, notices_travel=False)), at_least=5_000)


def test_prepared_transactions_lose_no_wake_up() -> None:
    assert_loses_nothing(explore(World(inserters=2, prepare=True)), at_least=15_000)


def test_a_savepoint_that_is_rolled_back_loses_no_wake_up() -> None:
    assert_loses_nothing(explore(World(inserters=2, savepoints=True)), at_least=7_500)


def test_an_inserter_with_an_old_snapshot_loses_no_wake_up() -> None:
    assert_loses_nothing(explore(World(old_snapshots=True, prepare=True)), at_least=1_000)


@pytest.mark.parametrize(
    ("fault", "at_least"),
    [
        (Fault.RESTART, 8_000),
        (Fault.CUT, 7_000),
        (Fault.DEATH, 1_500),
        (Fault.HICCUP, 3_000),
        (Fault.EXPIRY, 2_500),
    ],
)
def test_a_fault_loses_no_wake_up_of_any_kind_of_inserter(fault: Fault, at_least: int) -> None:
    world = World(prepare=True, savepoints=True, old_snapshots=True, faults=(fault,))
    assert_loses_nothing(explore(world), at_least=at_least)


@pytest.mark.parametrize(("fault", "at_least"), [(Fault.DEATH, 3_000), (Fault.RESTART, 15_000)])
def test_a_fault_loses_no_wake_up_where_there_are_two_pools(fault: Fault, at_least: int) -> None:
    world = World(pools=2, notices_travel=False, renewals=False, faults=(fault,))
    assert_loses_nothing(explore(world), at_least=at_least)


def test_an_opening_that_fails_after_the_gate_ran_out_loses_no_wake_up() -> None:
    world = replace(ONE_BUSY, faults=(Fault.EXPIRY, Fault.HICCUP), most_faults=2)
    assert_loses_nothing(explore(world), at_least=4_500)


def test_a_shutting_that_is_aborted_leaves_the_others_to_their_renewal() -> None:
    """A known limit: the gate is shut at once, and who was to be told is not."""
    found = explore(replace(ONE_BUSY_ONE_ASLEEP, faults=(Fault.CUT_OFF_SHUT,)))

    assert found.lost is not None
    assert any("aborted" in what for what in found.lost)


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
