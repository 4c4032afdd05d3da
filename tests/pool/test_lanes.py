"""A pool's lanes, where a ring for units that were given back fails."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from pushq.database.session import Session
from pushq.errors import DatabaseAway
from pushq.outcome import Kind, Outcome
from pushq.pool.doorbell import Doorbell
from pushq.pool.intake import Intake
from pushq.pool.lanes import Lanes
from pushq.pool.loads import Loads
from pushq.pool.outbox import Outbox
from pushq.pool.store import Claimant, Terms
from tests.support.jobs import Connection, insert, row_of
from tests.support.store import Store

CLAIMANT = Claimant("anna", 1, ("default",), ("echo",))


class LosesRings(Store):
    """Whose connection is lost between an end and the ring."""

    async def ring_for_units(self) -> None:
        raise DatabaseAway("The connection is lost.")


@pytest.mark.parametrize("needs", [None, ["gpu"]])
async def test_an_end_is_told_and_no_ring_is_forgotten_if_the_database_goes_away_before_the_ring(
    database_url: str, connection: Connection, needs: Any
) -> None:
    session, told = Session(database_url, "test"), list[str]()
    store = LosesRings(session, told.extend)
    intake, doorbell = Intake(0), Doorbell()  # no worker is free here
    lanes = store.lanes = Lanes(store, CLAIMANT, loads=Loads(()), intake=intake, outbox=Outbox(), doorbell=doorbell)
    await store.heartbeat("anna", "here", 1, 3600)
    [job] = await insert(connection, "echo", needs=needs, waiters=["pushq_me"])
    jobs = await store.claim(CLAIMANT, uuid4(), 1, terms=Terms(1))
    await connection.execute("select pushq.limit('queue:default', 1)")
    await connection.execute("select pushq.stamp()")

    assert await store.finish([Outcome(jobs[0], Kind.SUCCEEDED)]) == []
    await session.close()
    assert (await row_of(connection, job))["status"] == "succeeded"
    assert told == [f"{job} succeeded pushq_me"]
    assert lanes.owed.total() == 1
