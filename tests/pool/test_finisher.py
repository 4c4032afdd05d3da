"""The finisher tells of each outcome what became of it: written, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from pushq.database.session import Session
from pushq.database.store import Claimant, Fence, Store
from pushq.errors import DatabaseAway
from pushq.events import Event, JobsEnded, OutcomeRefused, subscribe
from pushq.job import Job
from pushq.outcome import Kind, Outcome
from pushq.pool.finisher import finish
from pushq.pool.outbox import Outbox
from tests.support.jobs import Connection, insert

CLAIMANT = Claimant("here", 1, ("default",), ("echo",))


async def a_claim(connection: Connection, store: Store) -> Job:
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('here', 'here', 1, '1 hour', now() + interval '1 hour') on conflict do nothing"
    )
    await insert(connection, "echo")
    (job,) = await store.claim(CLAIMANT, uuid4(), 1)
    return job


async def told(store: Store, outcomes: Sequence[Outcome]) -> tuple[list[UUID], list[UUID]]:
    """The tokens of what is said to have ended, and how many are said to have been refused, as ids."""
    events: list[Event] = []
    outbox = Outbox()
    for outcome in outcomes:
        outbox.put(outcome)
    outbox.close()
    with subscribe(events.append):
        await finish(store, outbox)
    ended = [one.job.token for event in events if isinstance(event, JobsEnded) for one in event.outcomes]
    return ended, [event.id for event in events if isinstance(event, OutcomeRefused)]


@pytest.mark.parametrize("reply", ["comes", "is lost"])
@pytest.mark.parametrize("kind", [Kind.SUCCEEDED, Kind.RETRIED])
@pytest.mark.parametrize("place_of_the_forgotten", [0, 1])
async def test_of_two_outcomes_of_one_job_in_a_batch_one_is_told_as_ended_and_the_other_as_refused(
    database_url: str,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    reply: str,
    place_of_the_forgotten: int,
) -> None:
    """A claim that a failover forgot, and the one by which the job was claimed anew, in the same pool."""
    session = Session(database_url, "test")
    store = Store(session)
    job = await a_claim(connection, store)
    outcomes = [Outcome(job, kind)]
    outcomes.insert(place_of_the_forgotten, Outcome(job._replace(token=uuid4()), Kind.SUCCEEDED))
    if reply == "is lost":
        monkeypatch.setattr(Store, "finish", _losing_the_first_reply(Store.finish))
    ended, refused = await told(store, outcomes)
    await session.close()

    if reply == "is lost" and kind is Kind.RETRIED:
        assert (ended, refused) == ([], [job.id, job.id])  # of a job that goes on nothing tells who sent it on
    else:
        assert (ended, refused) == ([job.token], [job.id])


def _losing_the_first_reply(finish: object) -> object:
    is_first = True

    async def lose(store: Store, outcomes: Sequence[Outcome]) -> set[Fence]:
        nonlocal is_first
        accepted: set[Fence] = await finish(store, outcomes)  # type: ignore[operator]
        if is_first:
            is_first = False
            raise DatabaseAway("no reply")
        return accepted

    return lose
