"""The tester can fail: planted bugs are caught, and a statement that waits is seen to wait, every time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pushq.database import statements
from tests.isolation.operations import PARTS, sessions_of
from tests.isolation.permute import Violation, interleavings, text_of
from tests.isolation.stage import Stage
from tests.prove.isolation.test_triples import FROM_BOTH_ENDS
from tests.support.planting import LOCK_CLAIMABLE, spoiled

pytestmark = pytest.mark.asyncio(loop_scope="session")

NO_ORDER = "no order of the operations explains this"

# bug: statement or function, what stands there, what would stand there instead; who meets; how it is found
PLANTED = {
    "a claim that locks nothing claims twice": (
        ("pushq.lock_ordinary", "for no key update skip locked", ""),
        ("claim", "claim"),
        NO_ORDER,
    ),
    "a finish without the token ends a job that was taken away": (
        (
            "pushq.end_sorted",
            "coalesce(end_sorted.tokens[width_bucket(job.id, end_sorted.ids)], job.token)",
            "job.token",
        ),
        ("finish", "sweep"),
        NO_ORDER,
    ),
    "a claim that sets the attempt does not count it": (
        ("pushq.hand_out", "attempt = job.attempt + (job.attempt < 2147483647)::int", "attempt = 1"),
        ("claim", "cancel_q1"),
        NO_ORDER,
    ),
    "a claim that does not look at the lease takes jobs for the dead": (
        (LOCK_CLAIMABLE, "live.lease_until > now()", "true"),
        ("claim_without_lease", "declare_dead"),
        NO_ORDER,
    ),
    "a claim that does not look at pauses goes on": (
        (
            LOCK_CLAIMABLE,
            "pushq.open_queues(lock_claimable.queues) as queue order by queue.place",
            "unnest(lock_claimable.queues) as queue (name)",
        ),
        ("claim", "pause_default"),
        NO_ORDER,
    ),
    "a sweep that locks nothing charges a crash to who was about to finish": (
        ("requeue", "for update skip locked", ""),
        ("finish_retried", "sweep"),
        NO_ORDER,
    ),
    "a tally that is not written is missed": (
        (
            "pushq.give_back",
            "pushq.tally_back('retried'",
            "pushq.tally_back('succeeded'",
        ),
        ("finish_retried", "fold"),
        NO_ORDER,
    ),
    "a declaration of death by name alone hits a supervisor that has just sent a heartbeat": (
        ("declare_dead", "and seen.heartbeat = supervisor.heartbeat\n    where", "where true or"),
        ("heartbeat_one", "declare_dead"),
        NO_ORDER,
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
async def test_a_planted_bug_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    bad, names, found_by = PLANTED[bug]
    sessions = sessions_of(*(PARTS[name] for name in names))
    schedules = interleavings(sessions, begins_apart=False)
    await stage.try_every(sessions, schedules)

    async with planted(stage, monkeypatch, *bad):
        with pytest.raises(Violation, match=found_by) as caught:
            await stage.try_every(sessions, schedules)
    assert "s1.begin" in str(caught.value)  # the schedule, to play it again


@pytest.mark.parametrize(
    ("batches", "statement", "order"),
    [
        ("inserts", "insert", "order by unique_key, tenant_id, case when unique_key is null then id end, position"),
        ("registrations", "register", "order by name"),
    ],
)
async def test_batches_that_lock_in_the_order_of_arrival_are_caught_in_a_deadlock(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, batches: str, statement: str, order: str
) -> None:
    sessions = sessions_of(*FROM_BOTH_ENDS[batches])
    async with planted(stage, monkeypatch, statement, order, ""):
        with pytest.raises(Violation, match="ended with DeadlockDetectedError"):
            await stage.try_every(sessions, interleavings(sessions, begins_apart=False))


@asynccontextmanager
async def planted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, place: str, sound: str, by: str
) -> AsyncIterator[None]:
    """Spoils a statement or a function of pushq's."""
    if place.startswith("pushq."):
        async with spoiled(stage.onlooker, place, sound, by):
            yield
    else:
        text = statements.statement(place)
        assert sound in text
        monkeypatch.setitem(statements._STATEMENTS, place, text.replace(sound, by))
        yield


async def test_a_statement_that_must_wait_is_left_waiting_and_the_schedule_goes_on(stage: Stage) -> None:
    sessions = sessions_of(PARTS["cancel_q1"], PARTS["cancel_q1"])
    schedule = (0, 1, 0, 1, 0, 1)
    assert text_of(sessions, schedule) == "s1.begin s2.begin s1.cancel_q1 s2.cancel_q1 s1.commit s2.commit"

    for _ in range(5):
        ((first, second),) = await stage.try_every(sessions, [schedule])

        assert (first.answer, first.waited) == ("cancelled", False)
        assert (second.answer, second.waited) == ("already cancelled", True)
        assert second.started < first.over < second.over


async def test_an_error_that_was_not_expected_is_a_violation(stage: Stage) -> None:
    sessions = sessions_of(*(PARTS["cancel_q1"].at("repeatable read"),) * 2)
    with pytest.raises(Violation, match="cancel_q1 ended with SerializationError"):
        await stage.try_every(sessions, interleavings(sessions))


async def test_a_job_that_is_in_two_places_is_a_violation(stage: Stage) -> None:
    await stage.reset()
    await stage.onlooker.execute("insert into pushq.jobs select * from isolation.jobs where status = 'failed'")
    with pytest.raises(Violation, match="in two places"):
        await stage.look()
