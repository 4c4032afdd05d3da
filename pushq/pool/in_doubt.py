"""Claims whose replies were lost. The database may have carried out such a claim already, or may do so later.

The claimed jobs would run nowhere, under a living heartbeat. So the pool asks for jobs with the token of the claim.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from uuid import UUID

import anyio

from pushq.errors import DatabaseTrouble
from pushq.job import Job
from pushq.pool.store import Store

CLAIM_IN_DOUBT = 45.0
"""Seconds for which a claim whose reply was lost may still be carried out, from when the database answers again: three
times the longest statement."""


class InDoubt:
    """False if no claim is in doubt."""

    def __init__(self, store: Store, supervisor: str) -> None:
        self._store = store
        self._supervisor = supervisor
        self._until: dict[UUID, float] = {}  # by token: from which instant the claim cannot be carried out any more

    def __bool__(self) -> bool:
        return bool(self._until)

    def note(self, token: UUID) -> None:
        """Notes that the reply to the claim with this token was lost."""
        self._until[token] = inf

    async def take_back(self) -> list[Job]:
        """Returns the jobs of one claim in doubt, if any are found."""
        self._until = {token: until for token, until in self._until.items() if until > anyio.current_time()}
        for token, until in list(self._until.items()):
            with suppress(DatabaseTrouble):
                if jobs := await self._store.take_back(self._supervisor, token):
                    del self._until[token]
                    return jobs
                self._until[token] = min(until, anyio.current_time() + CLAIM_IN_DOUBT)
        return []
