"""The clients: they insert in Python and by psql, hold transactions open, roll back, cancel, retry, wait for jobs, and
keep a log.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeAlias
from uuid import UUID

import anyio

from tests.torture.connections import AWAY, Connection, connect
from tests.torture.history import Answer, Call, Operation
from tests.torture.needs import NOTHING, Needs, drawn
from tests.torture.schedule import QUEUES
from tests.torture.waiters import Waiters

CLIENTS = 5
"""The last of them starts psql."""

_COLUMNS = "id, task, payload, priority, max_attempts, queue, webhook_url, needs, limit_key, affinity"
_INSERT = (
    f"insert into pushq.jobs ({_COLUMNS}, waiters)"
    " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, case when $11::text is not null then array[$11] end)"
)
_INSERT_ROWS = (
    f"insert into pushq.jobs ({_COLUMNS}, waiters)"
    f" select {_COLUMNS}, case when channel is not null then array[channel] end"
    " from unnest($1::uuid[], $2::text[], $3::jsonb[], $4::int[], $5::int[], $6::text[], $7::text[], $8::jsonb[],"
    " $9::text[], $10::text[], $11::text[])"
    f" as job ({_COLUMNS}, channel)"
)
_ENQUEUE = (
    "select id from pushq.enqueue($1, $2, priority => $3, max_attempts => $4, queue => $5, webhook_url => $6,"
    " needs => $7, limit_key => $8, affinity => $9)"
)


@dataclass(frozen=True, slots=True)
class Order:
    """A job to insert. is_waited: with a channel. cancelled_after: so many seconds after the insert, if at all."""

    job: UUID
    task: str
    payload: str
    priority: int
    most: int | None
    """Its max_attempts; None: the task's own."""
    queue: str
    is_waited: bool = False
    cancelled_after: float | None = None
    url: str | None = None
    """That is told its end."""
    needs: Needs = NOTHING

    def values(self, channel: str | None) -> tuple[object, ...]:
        its = self.needs
        needed = its.needs, its.limit_key, its.affinity
        return self.job, self.task, self.payload, self.priority, self.most, self.queue, self.url, *needed, channel

    @property
    def statement(self) -> str:
        payload, most = self.payload.replace("'", "''"), "null" if self.most is None else self.most
        its = self.needs
        others = ("null" if one is None else f"'{one}'" for one in (self.url, its.needs, its.limit_key, its.affinity))
        columns = f"'{self.job}', '{self.task}', '{payload}', {self.priority}, {most}, '{self.queue}'"
        columns = ", ".join((columns, *others))
        return f"insert into pushq.jobs ({_COLUMNS}) values ({columns})"


def orders(seed: int, count: int, url: str) -> list[Order]:
    """The jobs of a run: the usual ones at random, and those that are rare in a fixed number, in a random order.

    url: that is told the ends of some.
    """
    chance = random.Random(f"{seed} orders")
    kinds = [kind for kind, share in RARE.items() for _ in range(max(kind not in SPARED, round(count * share)))]
    kinds += chance.choices(list(USUAL), list(USUAL.values()), k=max(0, count - len(kinds)))
    chance.shuffle(kinds)
    # Who kills its process in the second half would hide what is broken and mended by the end of a process.
    deaths = [
        kinds.pop(kinds.index(kind)) for kind in ("die", "tidy.die", "files.die") for _ in range(kinds.count(kind))
    ]
    for death in deaths:
        kinds.insert(chance.randrange(len(kinds) // 2), death)
    of_needs = random.Random(f"{seed} needs")
    return [replace(_order(chance, kind, url), needs=drawn(of_needs, is_slow=kind in SLOW)) for kind in kinds]


USUAL = {
    "nothing": 50.0,
    "nap": 15.0,
    "batch": 12.0,
    "fail": 6.0,
    "fail.once": 4.0,
    "snooze": 4.0,
    "thread": 4.0,
    "large": 1.0,
    "errand": 8.0,
}
RARE = {
    "nap.long": 0.015,
    "files": 0.03,
    "files.long": 0.02,
    "files.die": 0.002,
    "tidy": 0.012,
    "tidy.die": 0.002,
    "deaf": 0.004,
    "block": 0.008,
    "stubborn": 0.012,
    "poison": 0.016,
    "die": 0.002,
    "unreadable": 0.002,
}
"""What share of the jobs."""
WAITED, WAITED_USUALLY = {"die": 1.0, "tidy": 0.7, "tidy.die": 1.0, "deaf": 1.0}, 0.1
"""What share is waited for."""
CANCELLED = frozenset({"tidy", "tidy.die", "deaf"})
"""Each soon after its insert."""
TOLD_AT_ITS_END = 0.05
"""What share has a URL of its own."""
SLOW = frozenset({"nap.long", "files.long", "block", "stubborn", "deaf", "tidy", "tidy.die"})
SPARED = CANCELLED | {"files.long", "files.die"}
"""Of these, a small torture has none."""


# What is not the task's own name, and what each is given.
TASKS = {"nap.long": "nap", "files.long": "files", "files.die": "files", "tidy.die": "tidy", "unreadable": "nothing"}
PAYLOADS: dict[str, Callable[[random.Random], dict[str, object]]] = {
    "nap": lambda chance: {"seconds": chance.uniform(0.002, 0.1)},
    "batch": lambda chance: {
        "seconds": chance.uniform(0.002, 0.1),
        "how": chance.choice(("nap", "nap", "fail", "snooze")),
    },
    "nap.long": lambda chance: {"seconds": chance.choice((2.5, 7.0))},
    "files": lambda chance: {
        "sizes": _sizes(chance),
        "seconds": chance.uniform(0.002, 1.0),
        "ends": chance.choice(("returns", "returns", "fails")),
    },
    "files.long": lambda chance: {"sizes": _sizes(chance), "seconds": 6.0},
    "files.die": lambda chance: {"sizes": _sizes(chance), "seconds": 0.2, "ends": "dies"},
    "tidy": lambda _: {"seconds": 5.0},
    "tidy.die": lambda _: {"seconds": 5.0, "dies": True},
    "deaf": lambda _: {"seconds": 1.5},
    "snooze": lambda chance: {"seconds": chance.uniform(0.002, 0.1)},
    "thread": lambda chance: {"seconds": chance.uniform(0.002, 0.1)},
    "block": lambda chance: {"seconds": chance.choice((0.2, 1.0, 3.0))},
    "stubborn": lambda chance: {"seconds": chance.uniform(0.2, 1)},
    "die": lambda chance: {"way": chance.choice(("kill", "exit", "segfault", "abort"))},
    "poison": lambda chance: {"kind": chance.choice(("nan", "object", "nul", "large", "error"))},
    "large": lambda _: {"text": "x" * 20_000},
}
MEBIBYTE = 1024 * 1024


def _sizes(chance: random.Random) -> list[int]:
    """Of one to three files: whole pieces, which are sent before the end, and others."""
    size = (lambda: 0, lambda: MEBIBYTE, lambda: chance.randrange(100_000), lambda: chance.randrange(3 * MEBIBYTE))
    return [chance.choice(size)() for _ in range(chance.randint(1, 3))]


UNREADABLE = '{"a":' + "[" * 3000 + "]" * 3000 + "}"
"""jsonb takes it, and Python cannot read it."""


def _order(chance: random.Random, kind: str, url: str) -> Order:
    job = UUID(int=chance.getrandbits(128), version=4)
    given = PAYLOADS[kind](chance) if kind in PAYLOADS else {}
    payload = UNREADABLE if kind == "unreadable" else json.dumps(given)
    most = chance.choice((None, None, 1, 3, 7)) if kind == "fail" else None
    priority, queue = chance.choice((-1, 0, 0, 0, 1)), chance.choices([*QUEUES], [*QUEUES.values()])[0]
    is_waited = chance.random() < WAITED.get(kind, WAITED_USUALLY)
    cancelled_after = chance.uniform(0.1, 1.2) if kind in CANCELLED else None
    its_url = url if chance.random() < TOLD_AT_ITS_END else None
    return Order(job, TASKS.get(kind, kind), payload, priority, most, queue, is_waited, cancelled_after, its_url)


Place: TypeAlias = Callable[[list[Order], random.Random], Awaitable[None]]


class Clients:
    """They share the orders; what each does follows from the seed."""

    def __init__(self, url: str, psql: str, seed: int, jobs: int, waiters: Waiters, told: str) -> None:
        self._url = url
        self._waiters = waiters
        self._psql = psql
        self._seed = seed
        self._orders = orders(seed, jobs, told)
        self.steady_needs = {order.job: needs for order in self._orders if (needs := order.needs.steady)}
        self._known: list[UUID] = []
        self._answers: dict[UUID, Answer] = {}
        self.calls: list[Call] = []

    async def place(self, count: int, seconds: float) -> None:
        """The next orders, each once, in about that time."""
        these, self._orders = self._orders[:count], self._orders[count:]
        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                chance = random.Random(f"{self._seed} client {number}, {len(self._orders)} left")
                place = self._place_by_psql if number == CLIENTS - 1 else self._place
                group.start_soon(self._place_all, place, these[number::CLIENTS], seconds, chance)
            for order in these:
                if order.cancelled_after is not None:
                    group.start_soon(self._cancel_when_known, order.job, order.cancelled_after)

    async def insert(self, order: Order) -> bool:
        """A single job, in calm. Returns whether that was answered."""
        async with self._connected() as connection:
            await self._each_by_itself(connection, [order])
        return self._answers[order.job] == "ok"

    async def insert_rows(self, orders: list[Order]) -> None:
        """By one statement."""
        async with self._connected() as connection:
            await self._as_rows(connection, orders, random.Random(self._seed))

    async def insert_and_cancel(self, order: Order, after: float) -> None:
        if await self.insert(order):
            await self._cancel_when_known(order.job, after)

    async def cancel(self, *jobs: UUID) -> None:
        async with self._connected() as connection:
            for job in jobs:
                await self._change(connection, "cancel", job)

    async def watch(self, job: UUID) -> None:
        async with self._connected() as connection:
            with suppress(*AWAY):
                await self._waiters.watch(connection, job)

    async def _place_all(self, place: Place, share: list[Order], seconds: float, chance: random.Random) -> None:
        a_job = seconds / max(1, len(share))
        while share:
            count = chance.randint(1, 6)
            await place(share[:count], chance)
            share = share[count:]
            await anyio.sleep(count * a_job * chance.uniform(0, 1.6))

    # In Python ------------------------------------------------------------------------------------------------

    async def _place(self, taken: list[Order], chance: random.Random) -> None:
        acts = (
            self._each_by_itself,
            self._in_one_transaction,
            self._and_rolls_back,
            self._as_rows,
            self._by_enqueue,
        )
        async with self._connected() as connection:
            await chance.choices(acts, (6, 3, 1, 2, 2))[0](connection, taken, chance)
            if self._known and chance.random() < 0.15:
                await self._meddle(connection, chance)
            if chance.random() < 0.2:
                await self._wait(connection, chance)

    async def _each_by_itself(self, connection: Connection, taken: list[Order], *_: object) -> None:
        for order in taken:
            with self._call("insert", [order.job]) as told:
                await connection.execute(_INSERT, *order.values(self._channel(order)))
                told.answer = "ok"

    async def _as_rows(self, connection: Connection, taken: list[Order], _: random.Random) -> None:
        with self._call("insert", [order.job for order in taken]) as told:
            rows = [order.values(self._channel(order)) for order in taken]
            await connection.execute(_INSERT_ROWS, *zip(*rows, strict=True))
            told.answer = "ok"

    async def _by_enqueue(self, connection: Connection, taken: list[Order], *_: object) -> None:
        """Which makes the ids. Those that are to be found again by the ids of the orders are inserted without."""
        others = list[Order]()
        for order in taken:
            if order.is_waited or order.cancelled_after is not None:
                others.append(order)
                continue
            with suppress(*AWAY):
                await connection.execute("rollback")  # of one that was refused
                await connection.execute("begin")
                job = await connection.fetchval(_ENQUEUE, *order.values(None)[1:-1])
                self.steady_needs[job] = order.needs.steady
                with self._call("insert", [job]) as told:
                    await connection.execute("commit")
                    told.answer = "ok"
        with suppress(*AWAY):
            await connection.execute("rollback")
        await self._each_by_itself(connection, others)

    async def _in_one_transaction(self, connection: Connection, taken: list[Order], chance: random.Random) -> None:
        """Until COMMIT is sent, whatever happens means that nothing was inserted."""
        with self._call("insert", [order.job for order in taken]) as told:
            told.answer = "failed"
            await self._insert_and_wait(connection, taken, chance)
            told.answer = "unknown"
            await connection.execute("commit")
            told.answer = "ok"

    async def _and_rolls_back(self, connection: Connection, taken: list[Order], chance: random.Random) -> None:
        with self._call("insert", [order.job for order in taken]) as told:
            told.answer = "failed"
            await self._insert_and_wait(connection, taken, chance)
            await connection.execute("rollback")

    async def _insert_and_wait(self, connection: Connection, taken: list[Order], chance: random.Random) -> None:
        await connection.execute("begin")
        for order in taken:
            await connection.execute(_INSERT, *order.values(self._channel(order)))
        await anyio.sleep(chance.choice((0.0, 0.05, 0.5)) * chance.random())

    async def _meddle(self, connection: Connection, chance: random.Random) -> None:
        await self._change(connection, chance.choice(("cancel", "retry")), chance.choice(self._known[-50:]))

    async def _wait(self, connection: Connection, chance: random.Random) -> None:
        """For a job that is there for certain."""
        those = [job for job in self._known[-50:] if self._answers[job] == "ok"]
        if those and chance.random() < 0.3:
            self._waiters.ask_queue_soon(chance.choice(those))
        elif those:
            with suppress(*AWAY):
                await self._waiters.watch(connection, chance.choice(those))

    async def _cancel_when_known(self, job: UUID, after: float) -> None:
        """Most likely the job runs by then."""
        while job not in self._answers:  # noqa: ASYNC110 - that a client was answered is no event of ours
            await anyio.sleep(0.1)
        if self._answers[job] == "failed":
            return
        await anyio.sleep(after)
        async with self._connected() as connection:
            await self._change(connection, "cancel", job)

    async def _change(self, connection: Connection, operation: Operation, job: UUID) -> None:
        with self._call(operation, [job]) as told:
            told.did = await connection.fetchval(f"select pushq.{operation}($1)", job)
            told.answer = "ok"

    def _channel(self, order: Order) -> str | None:
        return self._waiters.open(order.job) if order.is_waited else None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """A new connection, as soon as there is one."""
        while True:
            with suppress(*AWAY):
                connection = await connect(self._url, command_timeout=8)
                break
            await anyio.sleep(0.05)
        try:
            yield connection
        finally:
            connection.terminate()

    # By psql --------------------------------------------------------------------------------------------------

    async def _place_by_psql(self, taken: list[Order], chance: random.Random) -> None:
        ends = "rollback" if chance.random() < 0.15 else "commit"
        wait = f"select pg_sleep({0.2 * chance.random():.3f})"
        statements = ["begin", *(order.statement for order in taken), wait, ends]
        arguments = [part for statement in statements for part in ("-c", statement)]
        with self._call("insert", [order.job for order in taken]) as told, anyio.move_on_after(10):
            told.answer = "failed" if ends == "rollback" else "unknown"
            command = [self._psql, self._url, "-Xq", "-v", "ON_ERROR_STOP=1", *arguments]
            ended = await anyio.run_process(command, check=False)
            if ended.returncode == 0 and ends == "commit":
                told.answer = "ok"

    # The log --------------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, operation: Operation, jobs: Sequence[UUID]) -> Iterator[_Told]:
        """Notes what was asked for, and what had been answered when it ended, in whichever way."""
        began_at, told = time.monotonic(), _Told()
        with suppress(*AWAY):
            yield told
        for job in jobs:
            self.calls.append(Call(operation, job, told.answer, began_at, time.monotonic(), told.did))
            if operation == "insert":
                self._answers[job] = told.answer
                self._waiters.settle(job, is_inserted=told.answer == "ok")
            if operation == "insert" and told.answer != "failed":
                self._known.append(job)


@dataclass(slots=True)
class _Told:
    answer: Answer = "unknown"
    did: str | None = None
