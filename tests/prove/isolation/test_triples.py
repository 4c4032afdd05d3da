"""Three sessions: the races that two do not show, and statements that are stopped half-way by a third."""

from __future__ import annotations

from uuid import UUID

import pytest

from pushq.job import NewJob
from pushq.outcome import Kind
from pushq.queue import Queue
from tests.isolation.operations import (
    PARTS,
    Part,
    days_of,
    declare_dead,
    finish,
    heartbeat,
    insert_keyed,
    part,
    register,
    sessions_of,
)
from tests.isolation.permute import interleavings
from tests.isolation.stage import FOUR, ONE, THREE, Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRIPLES = [
    "finish sweep claim",
    "finish_retried sweep claim",
    "claim claim_two cancel_q1",
    "finish cancel_r2 retry_r2",
    "finish cancel_r2 retire",
    "finish finish finished_with_token",
    "retry_f1 retry_f1 insert_keyed",
    "retry_f1 cancel_f1 retire",
    "heartbeat_one declare_dead claim_without_lease",
    "fold fold finish",
    "sweep sweep cancel_r2",
]

# The third holds what the others meet in the middle, coming from both ends.
FROM_BOTH_ENDS = {
    "finishes": (PARTS["finish"], PARTS["finish_reversed"], PARTS["cancel_r2"]),
    "retries": (
        part(finish("finish_retried", "r1 r2 r3", Kind.RETRIED)),
        part(finish("finish_retried_reversed", "r3 r2 r1", Kind.RETRIED)),
        PARTS["retry_r2"],
    ),
    "inserts": (PARTS["insert_keyed"], PARTS["insert_keyed_reversed"], part(insert_keyed("insert_middle", "M"))),
    "registrations": (
        PARTS["register"],
        part(register("register_reversed", ONE, "stranger newcomer echo", "other mail default")),
        PARTS["pause_mail"],
    ),
    "declarations of death": (
        part(declare_dead("declare_all_dead", [(ONE, 5), (THREE, 1), (FOUR, 1)])),
        part(declare_dead("declare_all_dead_reversed", [(FOUR, 1), (THREE, 1), (ONE, 5)])),
        part(heartbeat(THREE)),
    ),
}


@pytest.mark.timeout(300)  # hundreds of orders, beside everything else
@pytest.mark.parametrize("names", TRIPLES, ids=lambda names: names.replace(" ", "-"))
async def test_of_three_operations_one_comes_after_another_in_whatever_order_their_steps_are(
    stage: Stage, names: str
) -> None:
    parts = [PARTS[name] for name in names.split()]
    sessions = sessions_of(*parts)
    await stage.try_every(sessions, interleavings(sessions, begins_apart=False), days=days_of(*parts))


@pytest.mark.parametrize("parts", FROM_BOTH_ENDS.values(), ids=FROM_BOTH_ENDS)
async def test_two_batches_that_meet_coming_from_both_ends_take_turns(stage: Stage, parts: tuple[Part, ...]) -> None:
    """Each is stopped in the middle by what a third session holds: locks taken in the order of arrival would cross."""
    sessions = sessions_of(*parts)
    third_first = [order for order in interleavings(sessions, begins_apart=False) if order[0] == 2]
    await stage.try_every(sessions, third_first, days=days_of(*parts))


async def test_two_sweepers_drop_a_retired_day_side_by_side_while_an_insert_is_open(stage: Stage) -> None:
    parts = (PARTS["drop"], PARTS["drop"], PARTS["insert"])
    sessions = sessions_of(*parts)
    await stage.try_every(sessions, interleavings(sessions), days=days_of(*parts))


async def test_of_jobs_with_the_same_key_in_a_batch_the_first_is_inserted(stage: Stage) -> None:
    """In whatever order the batch takes its locks."""
    await stage.reset()
    jobs = [NewJob("echo", unique_key=key, id=UUID(int=number)) for key, number in (("Y", 93), ("X", 92), ("Y", 91))]
    inserted = await Queue().insert_many(jobs, connection=stage.actors[0])

    assert {*inserted} == {UUID(int=93), UUID(int=92)}
