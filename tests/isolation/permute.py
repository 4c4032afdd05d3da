"""Runs the steps of a few sessions in every order: PostgreSQL's own isolation tester (src/test/isolation), on asyncpg.

Theory of operation
-------------------
A session does operations, one after another. An operation is a transaction of one statement, in three steps: begin, the
statement, commit or rollback. A schedule says whose step is next.

A statement that must wait for a lock is left waiting, and the schedule goes on with the others; what its session has
still to do is done in turn once it goes on. The server itself says who waits, and no step begins before all others have
ended or wait. So a schedule runs the same way every time, and a failure can be run again alone.

What is right is not said schedule by schedule. Each operation explains itself to a model: from which state it may give
which answer, and what the state is then. A run is right if some order of the operations that committed explains every
answer and the rows at the end; whoever had ended before another's statement began comes before it. A job claimed twice,
an outcome lost, a row in two places: no order explains any of them.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias, TypeVar, cast

import asyncpg

from pushq.database.session import Session, kind_of
from tests.support.jobs import Connection
from tests.support.store import Store

S = TypeVar("S")
Schedule: TypeAlias = tuple[int, ...]
"""Whose step is next, by the sessions' places: 0, 0, 1, …"""

_LOOK_AGAIN = 0.003
"""Seconds that a step may take before the server is asked whether it waits."""
_LONGEST = 20.0
"""Seconds that a permutation may take."""
_IS_BLOCKED = "select pg_catalog.pg_isolation_test_session_is_blocked($1, $2::int[])"


class Violation(AssertionError):
    """A schedule after which something does not hold."""


class Actor:
    """A session of the tester. It stands in the place of pushq's Session: statements run in its open transaction."""

    def __init__(self, number: int, connection: Connection) -> None:
        self.number = number
        self.connection = connection
        self.pid = connection.get_server_pid()
        self.store = Store(cast("Session", self))

    async def fetch(self, statement: str, *arguments: object, deadline: float | None = None) -> list[Any]:
        return await self.connection.fetch(statement, *arguments, timeout=deadline)

    async def execute_alone(self, statement: str) -> None:
        """Raises what a session of pushq's would."""
        try:
            await self.connection.execute(statement)
        except asyncpg.PostgresError as error:
            raise kind_of(error)(str(error), error.sqlstate or "") from error


@dataclass(frozen=True)
class Operation:
    """A transaction of one statement; isolation None: a step that stands alone, without a transaction block.

    explain: from this state, with what is known of the run, the states that may follow; none: its answer is wrong.
    """

    name: str
    perform: Callable[[Actor], Awaitable[Any]]
    explain: Callable[[Any, Ran], Iterable[Any]]
    isolation: str | None = "read committed"
    ending: str = "commit"

    @property
    def steps(self) -> tuple[str, ...]:
        return (self.name,) if self.isolation is None else ("begin", self.name, self.ending)


Sessions: TypeAlias = Sequence[Sequence[Operation]]


@dataclass
class Ran:
    """One operation as it ran. The instants count the steps' beginnings and ends: only their order means something."""

    operation: Operation
    actor: Actor
    began: int = 0
    started: int = 0  # its statement
    over: int = 0
    answer: Any = None
    error: asyncpg.PostgresError | None = None
    waited: bool = False
    is_undisturbed: bool = True
    """Whether everybody else had ended when it began, or began their statements when it was over."""

    @property
    def is_committed(self) -> bool:
        return self.error is None and self.operation.ending == "commit"

    def __str__(self) -> str:
        came_to = f"{type(self.error).__name__}: {self.error}" if self.error else repr(self.answer)
        return f"s{self.actor.number}.{self.operation.name}{' waited' if self.waited else ''} → {came_to}"


# Schedules ------------------------------------------------------------------------------------------------------------


def interleavings(sessions: Sessions, *, begins_apart: bool = True) -> list[Schedule]:
    """Every order of the sessions' steps.

    begins_apart: False leaves out orders in which a begin is not followed by its statement at once. A begin takes no
    snapshot and no lock, so its place matters only to now(). Sessions that do the same keep their order.
    PUSHQ_TEST_SCHEDULE chooses one schedule.
    """
    runs = [[run for one in session for run in _runs(one, begins_apart)] for session in sessions]
    schedules = [
        tuple(place for place, length in order for _ in range(length))
        for order in _merged([[(place, length) for length in lengths] for place, lengths in enumerate(runs)])
    ]
    twins = [(i, j) for j in range(len(sessions)) for i in range(j) if sessions[i] == sessions[j]]
    schedules = [order for order in schedules if all(order.index(i) < order.index(j) for i, j in twins)]
    if (wanted := os.environ.get("PUSHQ_TEST_SCHEDULE")) is None:
        return schedules
    if chosen := [order for order in schedules if text_of(sessions, order) == wanted]:
        return chosen
    example = text_of(sessions, schedules[0])
    raise ValueError(f"PUSHQ_TEST_SCHEDULE='{wanted}' is no schedule of this test; one is '{example}'.")


def _runs(operation: Operation, begins_apart: bool) -> list[int]:
    steps = len(operation.steps)
    return [1] * steps if begins_apart or steps == 1 else [2, *[1] * (steps - 2)]


def _merged(queues: list[list[tuple[int, int]]]) -> Iterator[tuple[tuple[int, int], ...]]:
    if not any(queues):
        yield ()
    for place, queue in enumerate(queues):
        if queue:
            for rest in _merged([*queues[:place], queue[1:], *queues[place + 1 :]]):
                yield (queue[0], *rest)


def text_of(sessions: Sessions, schedule: Schedule) -> str:
    """The schedule as `s1.begin s2.begin s1.claim …`."""
    steps = [iter([step for one in session for step in one.steps]) for session in sessions]
    return " ".join(f"s{place + 1}.{next(steps[place])}" for place in schedule)


# Running one ----------------------------------------------------------------------------------------------------------


@dataclass
class _Session:
    actor: Actor
    steps: deque[tuple[Ran, str]]
    task: asyncio.Task[None] | None = None
    may_wait: bool = False  # its step is under way, and has not ended at once

    async def take_step(self, clock: Iterator[int]) -> None:
        ran, step = self.steps[0]
        connection, operation = self.actor.connection, ran.operation
        ran.began = ran.began or next(clock)
        try:
            if step == "begin":
                await connection.execute(f"begin isolation level {operation.isolation}")
            elif step in ("commit", "rollback"):
                await connection.execute(step)
            else:
                ran.started = next(clock)
                ran.answer = await operation.perform(self.actor)
        except asyncpg.PostgresError as error:
            ran.error = error
            if connection.is_in_transaction():
                await connection.execute("rollback")
        self.steps.popleft()
        if ran.error or step == operation.steps[-1]:
            ran.over = next(clock)
            self.steps = deque(later for later in self.steps if later[0] is not ran)


class Tester:
    """Runs schedules. onlooker: a connection that belongs to none of the sessions."""

    def __init__(self, onlooker: Connection, actors: Sequence[Actor]) -> None:
        self._onlooker = onlooker
        self._actors = actors

    async def run(self, sessions: Sessions, schedule: Schedule) -> list[Ran]:
        """What each operation came to, session by session."""
        ran = [
            [Ran(operation, actor) for operation in operations]
            for actor, operations in zip(self._actors, sessions, strict=False)
        ]
        under_way = [
            _Session(one[0].actor, deque((each, step) for each in one for step in each.operation.steps)) for one in ran
        ]
        try:
            async with asyncio.timeout(_LONGEST), asyncio.TaskGroup() as group:
                await self._follow(schedule, under_way, group)
        except TimeoutError:
            raise Violation(f"nobody goes on any more: {text_of(sessions, schedule)}") from None
        everything = [each for one in ran for each in one]
        for each in everything:
            others = [other for other in everything if other is not each and other.started]
            each.is_undisturbed = all(other.over < each.began or other.started > each.over for other in others)
        return everything

    async def _follow(self, schedule: Schedule, sessions: Sequence[_Session], group: asyncio.TaskGroup) -> None:
        turns, clock = list(schedule), count(1)
        while turns or any(session.task for session in sessions):
            place = next((place for place in turns if not sessions[place].task), None)
            if place is None:  # only the server can help: it finds a deadlock, or a statement gives up waiting
                await asyncio.wait([one.task for one in sessions if one.task], return_when=asyncio.FIRST_COMPLETED)
            else:
                turns.remove(place)
                if sessions[place].steps:  # else its operation has failed
                    sessions[place].task = group.create_task(sessions[place].take_step(clock))
            await self._settle(sessions)

    async def _settle(self, sessions: Sequence[_Session]) -> None:
        """Returns when each step that is under way has ended or waits for another session."""
        pids = [session.actor.pid for session in sessions]
        somebody_ended = True
        while somebody_ended:  # whoever ends may have let another go on
            somebody_ended = False
            for session in sessions:
                if session.task and not await self._waits(session, pids):
                    session.task = None
                    somebody_ended = True

    async def _waits(self, session: _Session, pids: list[int]) -> bool:
        assert session.task
        while not session.task.done():
            ran, _ = session.steps[0]
            if session.may_wait and await self._onlooker.fetchval(_IS_BLOCKED, session.actor.pid, pids):
                ran.waited = True
                return True
            await asyncio.wait([session.task], timeout=_LOOK_AGAIN)
            session.may_wait = True
        session.may_wait = False
        return False


# Judging one ----------------------------------------------------------------------------------------------------------


def order_that_explains(before: S, after: S, ran: Sequence[Ran]) -> tuple[Ran, ...] | None:
    """An order of those that committed in which each answer and the state at the end come out as they did."""

    def search(state: S, left: Sequence[Ran]) -> tuple[Ran, ...] | None:
        if not left:
            return () if state == after else None
        for first in left:
            others = [other for other in left if other is not first]
            if any(other.over < first.started for other in others):
                continue
            for following in first.operation.explain(state, first):
                if (rest := search(following, others)) is not None:
                    return (first, *rest)
        return None

    return search(before, [one for one in ran if one.is_committed])
