"""What wakes an idle claimer, by its default settings: no alarm is put off by another, however often that one rings.

In virtual time, over a database that answers within a millisecond, and as each disturbance has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, pairwise
from math import inf
from typing import Any
from uuid import UUID

import anyio
import pytest

from pushq.errors import DatabaseAway
from pushq.job import Job
from pushq.pool import claimer, gate, intake, lookback, sleeper
from pushq.pool.claimer import Claimer
from pushq.pool.doorbell import Doorbell
from pushq.pool.gate import Gate
from pushq.pool.intake import Intake
from pushq.pool.lanes import Lanes
from pushq.pool.loads import Loads
from pushq.pool.outbox import Outbox
from pushq.pool.store import Claimant, Outlook
from pushq.settings import Settings
from tests.support.store import Store
from tests.support.virtual_time import run_in_virtual_time

POLL = Settings.model_fields["poll_interval"].default
LASTS = 4 * POLL
LEEWAY = 2.5
"""Seconds: a round of looks at the past that is under way, a second without replies and as much until the next try."""

DISTURBANCES = (
    "nothing",
    "somebody rings",
    "somebody says that gates were shut",
    "a transaction that never ends",
    "a due job that somebody else holds",
    "jobs that are claimed by others when they are due",
    "replies that are lost",
    "dead entries under a pinned horizon",
)


@dataclass
class Quiet(Store):
    """A database that has nothing for us. at: when each kind of question was asked."""

    disturbances: frozenset[str]
    at: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    due_at: float = inf

    async def _answer(self, question: str, seconds: float = 0.001) -> None:
        await anyio.sleep(seconds)
        self.at[question].append(anyio.current_time())

    async def claim(self, *arguments: Any, **_: Any) -> list[Job]:
        since, until = arguments[3:5]
        now = anyio.current_time()
        if now >= self.due_at:
            self.due_at = inf
            await self._answer("claim of a job that is due")
        if "replies that are lost" in self.disturbances and int(now) % 40 == 0:
            raise DatabaseAway("no reply")
        if until is not None:
            await self._answer("look at the past", 0.02)
        else:
            is_slow = since is None and "dead entries under a pinned horizon" in self.disturbances
            await self._answer("look at what is new", 0.05 if is_slow else 0.001)
        return []

    async def claimable(self, *_: Any, **__: Any) -> list[UUID]:
        await self.claim(None, None, 1, None, None)
        return []

    async def claim_these(self, *_: Any, **__: Any) -> list[Job]:
        await self._answer("claim of nothing")
        return []

    async def take_back(self, *_: Any, **__: Any) -> list[Job]:
        await self._answer("claim in doubt")
        return []

    async def next_due(self, *_: Any, **__: Any) -> Outlook:
        await self._answer("when a job is due")
        now = anyio.current_time()
        if "a due job that somebody else holds" in self.disturbances:
            return Outlook(-1.0, lease_is_live=True)
        if "jobs that are claimed by others when they are due" in self.disturbances:
            return Outlook(min(7.0, self.due_at - now), lease_is_live=True)
        return Outlook(None if self.due_at == inf else self.due_at - now, lease_is_live=True)

    async def open_gate(self, *_: Any, **__: Any) -> bool:
        await self._answer("gate")
        return len(self.at["gate"]) == 1

    async def shut_gate(self, *_: Any, **__: Any) -> None:
        await self._answer("shutting")

    async def gate_passers(self, *_: Any, **__: Any) -> list[str]:
        await self._answer("passers")
        return ["it"] if "a transaction that never ends" in self.disturbances else []


@pytest.mark.parametrize("disturbances", [*combinations_with_replacement(DISTURBANCES, 2)], ids=" and ".join)
def test_no_alarm_is_put_off_by_another(monkeypatch: pytest.MonkeyPatch, disturbances: tuple[str, str]) -> None:
    at = _watched(monkeypatch, frozenset(disturbances), hears=True)

    assert _longest_pause(at["look at what is new"]) <= POLL + LEEWAY
    assert _longest_pause(at["gate"]) <= gate.RENEWED + LEEWAY
    assert at["claim of a job that is due"] == [pytest.approx(1000 + LASTS / 2, abs=1)]
    if "a transaction that never ends" in disturbances:
        assert _longest_pause(at["passers"]) <= gate.LONGEST_PAUSE + LEEWAY
    if "dead entries under a pinned horizon" in disturbances:
        assert _longest_pause(at["look at the past"]) <= lookback.SHARE * 0.02 + LEEWAY
    if "replies that are lost" in disturbances:
        assert _longest_pause(at["claim in doubt"], after=45) <= 40.0 + 2.0  # each time for 45 s


@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_a_deaf_pool_polls_every_second(monkeypatch: pytest.MonkeyPatch, disturbance: str) -> None:
    at = _watched(monkeypatch, frozenset([disturbance]), hears=False)

    assert _longest_pause(at["look at what is new"]) <= sleeper.POLL_WHEN_DEAF + LEEWAY


def _watched(monkeypatch: pytest.MonkeyPatch, disturbances: frozenset[str], *, hears: bool) -> dict[str, list[float]]:
    """When a claimer asked what, beside a job that falls due half-way."""

    async def watch(clock: object) -> dict[str, list[float]]:
        for module in (claimer, intake, lookback):
            monkeypatch.setattr(module, "monotonic", clock)
        store, bell = Quiet(disturbances), Doorbell()
        store.due_at = anyio.current_time() + LASTS / 2
        bell.hears = hears
        claimant, loads, intake_of_ten, outbox = (
            Claimant("here", 1, ("default",), ("echo",)),
            Loads(()),
            Intake(10),
            Outbox(),
        )
        one = Claimer(
            store,
            claimant,
            loads=loads,
            intake=intake_of_ten,
            outbox=outbox,
            doorbell=bell,
            gate=Gate(store, ("default",)),
            poll_interval=POLL,
            lanes=Lanes(store, claimant, loads=loads, intake=intake_of_ten, outbox=outbox, doorbell=bell),
        )
        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            group.start_soon(_disturb, bell, disturbances)
            await anyio.sleep(LASTS)
            group.cancel_scope.cancel()
        return store.at

    return run_in_virtual_time(watch)


async def _disturb(bell: Doorbell, disturbances: frozenset[str]) -> None:
    while True:
        await anyio.sleep(0.7)
        if "somebody rings" in disturbances:
            bell.ring()
        if "somebody says that gates were shut" in disturbances:
            bell.note_interruption()
            bell.ring()


def _longest_pause(instants: Sequence[float], after: float = 1.0) -> float:
    """Also the one at the end."""
    later = [instant for instant in instants if instant >= 1000 + after] + [1000 + LASTS]
    return max((end - begin for begin, end in pairwise(later)), default=inf)
