"""Two operations in two sessions, in every order of their steps: the pairs that a change is likeliest to break."""

from __future__ import annotations

import pytest

from tests.isolation.operations import PARTS, Part, days_of, sessions_of
from tests.isolation.pairs import HOT, TRIED, named
from tests.isolation.permute import interleavings
from tests.isolation.stage import Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(("one", "other"), named(pair for pair in TRIED if {part.name for part in pair} in HOT))
async def test_of_two_operations_one_comes_after_the_other_in_whatever_order_their_steps_are(
    stage: Stage, one: Part, other: Part
) -> None:
    sessions = sessions_of(one, other)
    await stage.try_every(sessions, interleavings(sessions), days=days_of(one, other))


@pytest.mark.parametrize("name", "finish finish_failed finish_retried finish_released sweep charge_pool".split())
async def test_who_writes_outcomes_and_retention_do_not_wait_for_each_other(stage: Stage, name: str) -> None:
    sessions = sessions_of(PARTS["retire"], PARTS[name])
    for ran in await stage.try_every(sessions, interleavings(sessions, begins_apart=False)):
        assert not any(each.waited for each in ran)
