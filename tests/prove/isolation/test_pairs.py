"""Any two operations in two sessions, in every order of their steps."""

from __future__ import annotations

from itertools import product

import asyncpg
import pytest

from tests.isolation.operations import PARTS, Part, days_of, migrates, sessions_of
from tests.isolation.pairs import TRIED, is_hot, named
from tests.isolation.permute import Ran, interleavings
from tests.isolation.stage import Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(("one", "other"), named(pair for pair in TRIED if not is_hot(*pair)))
async def test_of_two_operations_one_comes_after_the_other_in_whatever_order_their_steps_are(
    stage: Stage, one: Part, other: Part
) -> None:
    sessions = sessions_of(one, other)
    await stage.try_every(sessions, interleavings(sessions, begins_apart=False), days=days_of(one, other))


@pytest.mark.timeout(300)  # hundreds of orders, beside everything else
@pytest.mark.parametrize(("one", "other"), named(pair for pair in TRIED if is_hot(*pair)))
async def test_so_it_does_where_a_transaction_begins_long_before_its_statement(
    stage: Stage, one: Part, other: Part
) -> None:
    """now() is older then."""
    sessions = sessions_of(one, other)
    await stage.try_every(sessions, interleavings(sessions), days=days_of(one, other))


@pytest.mark.parametrize("one", PARTS.values(), ids=PARTS)
async def test_whoever_meets_an_operation_that_is_rolled_back_goes_on_as_if_it_had_never_been(
    stage: Stage, one: Part
) -> None:
    for other in (other for other in PARTS.values() if one.is_tried_with(other)):
        sessions = sessions_of(one.rolled_back(), other)
        second_waits = [order for order in interleavings(sessions, begins_apart=False) if order[:3] == (0, 0, 1)]
        await stage.try_every(sessions, second_waits[:1], days=days_of(one, other))


@pytest.mark.parametrize("one", PARTS.values(), ids=PARTS)
async def test_while_an_operation_is_open_those_that_have_nothing_in_common_with_it_do_not_wait(
    stage: Stage, one: Part
) -> None:
    others = [other.rolled_back() for other in PARTS.values() if not one.meets(other)]
    sessions = [one.operations, [operation for other in others for operation in other.operations]]
    own_steps, their_steps = (sum(len(each.steps) for each in session) for session in sessions)
    within = (0,) * (own_steps - 1) + (1,) * their_steps + (0,)
    (ran,) = await stage.try_every(sessions, [within], days=days_of(one, *others))
    assert not [each.operation.name for each in ran if each.waited]


# Producers may use any isolation level --------------------------------------------------------------------------------

# At REPEATABLE READ a statement that waited for a row which another then changed is refused (40001), since its snapshot
# does not show the change. So is an insert whose unique_key belongs to such a row: `on conflict do nothing` may not
# pass over a row that it does not see. The producer repeats its transaction.
_TAKERS = "sweep charge_pool release_pool"
_FINISHES = "finish finish_reversed finish_failed finish_retried finish_released"
REFUSED_BESIDE = {
    "insert": "insert",
    "insert_keyed": f"insert_keyed insert_keyed_reversed finish_retried finish_released {_TAKERS}",
    "insert_keyed_reversed": "insert_keyed insert_keyed_reversed retry_f1",
    "cancel_r2": f"cancel_r2 release_r2_by_hand {_FINISHES} {_TAKERS}",
    "cancel_q1": "cancel_q1 reprioritize_q1 claim claim_two",
    "retry_r2": f"cancel_r2 release_r2_by_hand {_FINISHES} {_TAKERS}",
    "release_r2_by_hand": f"cancel_r2 release_r2_by_hand {_FINISHES} {_TAKERS}",
    "reprioritize_q1": "cancel_q1 reprioritize_q1 claim claim_two",
    "retry_s1": "retry_s1 claim_suspect",
    "retry_f1": "retry_f1",
    "retry_f0": "retry_f0 purge",
    "pause_default": "pause_default",
    "pause_mail": "pause_mail register",
}


def is_refused(ran: Ran) -> bool:
    return ran.operation.isolation != "read committed" and isinstance(ran.error, asyncpg.SerializationError)


@pytest.mark.parametrize(
    ("producer", "other"),
    named(
        pair for pair in product(PARTS.values(), repeat=2) if pair[0].is_producers and pair[0].is_tried_with(pair[1])
    ),
)
async def test_a_producer_at_repeatable_read_is_refused_only_where_it_waited_for_a_row_that_was_changed(
    stage: Stage, producer: Part, other: Part
) -> None:
    sessions = sessions_of(producer.at("repeatable read"), other)
    other_first = [order for order in interleavings(sessions, begins_apart=False) if order[0] == 1]
    played = await stage.try_every(sessions, other_first, days=days_of(producer, other), may_fail=is_refused)

    refused = [one for ran in played for one in ran if one.error]
    assert all(one.waited for one in refused)
    assert bool(refused) == (other.name in REFUSED_BESIDE.get(producer.name, "").split())


@pytest.mark.parametrize(
    ("one", "other"), named(pair for pair in TRIED if pair[0].is_producers and pair[1].is_producers)
)
async def test_of_two_serializable_producers_one_may_be_refused_and_the_other_is_not(
    stage: Stage, one: Part, other: Part
) -> None:
    """One may also be refused that did not wait: each read what the other wrote."""
    sessions = sessions_of(one.at("serializable"), other.at("serializable"))
    played = await stage.try_every(sessions, interleavings(sessions, begins_apart=False), may_fail=is_refused)

    assert not [ran for ran in played if all(each.error for each in ran)]


# Migrations -----------------------------------------------------------------------------------------------------------

MADE_BY_THE_NEWEST = ("claim", "take_back", "charge_pool", "release_pool", "sweep", "survey")
"""Before it there is nothing to call, or their statements name what it makes."""


@pytest.mark.parametrize(
    "name", [name for name in PARTS if name != "migrate" and not name.startswith(MADE_BY_THE_NEWEST)]
)
async def test_the_newest_migration_under_way_makes_nobody_wait(
    stage_that_lacks_the_newest_migration: Stage, name: str
) -> None:
    """Nor does it wait for whoever was there before it: others would wait behind it."""
    part = PARTS[name]
    sessions = [migrates(applies=True), part.operations]
    schedules = interleavings(sessions, begins_apart=False)
    for ran in await stage_that_lacks_the_newest_migration.try_every(sessions, schedules, days=part.days):
        assert not any(each.waited for each in ran)
