"""A session that believes it holds a job, and one that takes the job away and gives it to another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pushq.outcome import Kind
from tests.isolation.operations import PARTS, claim, declare_dead, finish, heartbeat, requeue, take_back, token_of
from tests.isolation.permute import Actor, Operation, Ran, interleavings
from tests.isolation.stage import ONE, TWO, Stage, State

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECOND = token_of(2)
"""What session 2 claims under."""


def expire(name: str) -> Operation:
    """The lease of a supervisor runs out."""

    async def perform(actor: Actor) -> None:
        ageing = "update pushq.supervisors set lease_until = now() - interval '1 day' where name = $1"
        await actor.fetch(ageing, name)

    def explain(state: State, ran: Ran) -> Iterator[State]:
        assert ran.answer is None
        if seat := state.supervisors.get(name):
            state = state.seat(name, seat._replace(is_live=False))
        yield state

    return Operation(f"expire_{name}", perform, explain, isolation=None)


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_late_outcome_changes_nothing_whenever_it_comes(stage: Stage, kind: Kind) -> None:
    """Before its jobs are taken away, while they are queued or run by another, and once that one has finished."""
    late = [finish(f"finish_{kind}", "r1 r2", kind)]
    new_owner = [
        *PARTS["sweep"].operations,
        claim("claim", TWO, ("default",), 10),
        finish("finish_again", "r2 r1", token=SECOND),
    ]
    await stage.try_every([late, new_owner], interleavings([late, new_owner], begins_apart=False))


async def test_a_claim_whose_reply_was_lost_is_taken_back_whole_or_not_yet(stage: Stage) -> None:
    claims = [claim("claim", TWO, ("default", "mail"), 10)]
    asks = [take_back(f"take_back_{time}", TWO, lambda _: token_of(1)) for time in ("early", "late")]
    await stage.try_every([claims, asks], interleavings([claims, asks], begins_apart=False))


async def test_a_claim_that_commits_after_its_supervisor_was_declared_dead_is_swept_next(
    stage: Stage,
) -> None:
    revenant = [heartbeat(ONE), claim("claim", ONE, ("default", "mail"), 10)]
    sweeper = [expire(ONE), declare_dead("declare_dead", [(ONE, 6)]), requeue("sweep", crashed=True, only_if_dead=True)]
    found = 0
    for schedule in interleavings([revenant, sweeper], begins_apart=False):
        await stage.try_every([revenant, sweeper], [schedule])
        store = stage.actors[0].store
        strays = [seen.name for seen in await store.observe() if seen.heartbeat < 0]
        found += len(await store.requeue(strays, crashed=True, only_if_dead=True))
        state = await stage.look()
        assert {state.jobs[job].supervisor for job in state.find(status="running")} <= state.supervisors.keys()
    assert found


async def test_a_supervisor_that_comes_back_before_its_jobs_are_taken_keeps_them(stage: Stage) -> None:
    """From its declaration of death until then the sweeper may have been frozen, however long."""
    revenant = [heartbeat(ONE), claim("claim", ONE, ("default", "mail"), 10)]
    sweeper = PARTS["sweep"].operations
    kept = 0
    for schedule in interleavings([revenant, sweeper], begins_apart=False):
        await stage.try_every([revenant, sweeper], [schedule])
        state = await stage.look()
        kept += bool(ONE in state.supervisors and state.find(status="running", supervisor=ONE))
    assert kept
