"""The clients: they insert in Python and by psql, hold transactions open, roll back, cancel, retry, and keep a log."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import anyio
import asyncpg

from tests.torture.history import Answer, Call, Operation

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
CLIENTS = 5
"""The last of them starts psql."""

_INSERT = "insert into pushq.jobs (id, task, payload, priority, max_attempts) values ($1, $2, $3, $4, $5)"
_INSERT_ROWS = (
    "insert into pushq.jobs (id, task, payload, priority, max_attempts)"
    " select * from unnest($1::uuid[], $2::text[], $3::jsonb[], $4::int[], $5::int[])"
)


@dataclass(frozen=True, slots=True)
class Order:
    """A job to insert."""

    job: UUID
    task: str
    payload: str
    priority: int
    most: int | None
    """Its max_attempts; None: the task's own."""

    @property
    def values(self) -> tuple[UUID, str, str, int, int | None]:
        return self.job, self.task, self.payload, self.priority, self.most

    @property
    def statement(self) -> str:
        payload, most = self.payload.replace("'", "''"), "null" if self.most is None else self.most
        columns = f"'{self.job}', '{self.task}', '{payload}', {self.priority}, {most}"
        return f"insert into pushq.jobs (id, task, payload, priority, max_attempts) values ({columns})"


def orders(seed: int, count: int) -> list[Order]:
    """The jobs of a run: the usual ones at random, and those that are rare in a fixed number, in a random order."""
    chance = random.Random(f"{seed} orders")
    kinds = [kind for kind, share in RARE.items() for _ in range(max(1, round(count * share)))]
    kinds += chance.choices(list(USUAL), list(USUAL.values()), k=max(0, count - len(kinds)))
    chance.shuffle(kinds)
    # Who kills its process in the second half would hide what is broken and mended by the end of a process.
    deaths = [kinds.pop(kinds.index("die")) for _ in range(kinds.count("die"))]
    for death in deaths:
        kinds.insert(chance.randrange(len(kinds) // 2), death)
    return [_order(chance, kind) for kind in kinds]


USUAL = {
    "nothing": 50.0,
    "nap": 15.0,
    "batch": 12.0,
    "fail": 6.0,
    "fail.once": 4.0,
    "snooze": 4.0,
    "thread": 4.0,
    "large": 1.0,
}
RARE = {"nap.long": 0.015, "block": 0.008, "stubborn": 0.012, "poison": 0.016, "die": 0.002, "unreadable": 0.002}
"""What share of the jobs."""


# What is not the task's own name, and what each is given.
TASKS = {"nap.long": "nap", "unreadable": "nothing"}
PAYLOADS: dict[str, Callable[[random.Random], dict[str, object]]] = {
    "nap": lambda chance: {"seconds": chance.uniform(0.002, 0.1)},
    "batch": lambda chance: {
        "seconds": chance.uniform(0.002, 0.1),
        "how": chance.choice(("nap", "nap", "fail", "snooze")),
    },
    "nap.long": lambda chance: {"seconds": chance.choice((2.5, 7.0))},
    "snooze": lambda chance: {"seconds": chance.uniform(0.002, 0.1)},
    "thread": lambda chance: {"seconds": chance.uniform(0.002, 0.1)},
    "block": lambda chance: {"seconds": chance.choice((0.2, 1.0, 3.0))},
    "stubborn": lambda chance: {"seconds": chance.uniform(0.2, 1)},
    "die": lambda chance: {"way": chance.choice(("kill", "exit", "segfault", "abort"))},
    "poison": lambda chance: {"kind": chance.choice(("nan", "object", "nul", "large", "error"))},
    "large": lambda _: {"text": "x" * 20_000},
}
UNREADABLE = '{"a":' + "[" * 3000 + "]" * 3000 + "}"
"""jsonb takes it, and Python cannot read it."""


def _order(chance: random.Random, kind: str) -> Order:
    job = UUID(int=chance.getrandbits(128), version=4)
    given = PAYLOADS[kind](chance) if kind in PAYLOADS else {}
    payload = UNREADABLE if kind == "unreadable" else json.dumps(given)
    most = chance.choice((None, None, 1, 3, 7)) if kind == "fail" else None
    return Order(job, TASKS.get(kind, kind), payload, chance.choice((-1, 0, 0, 0, 1)), most)


Place: TypeAlias = Callable[[list[Order], random.Random], Awaitable[None]]


class Clients:
    """They share the orders; what each does follows from the seed."""

    def __init__(self, url: str, psql: str, seed: int, jobs: int) -> None:
        self._url = url
        self._psql = psql
        self._seed = seed
        self._orders = orders(seed, jobs)
        self._known: list[UUID] = []
        self.calls: list[Call] = []

    async def place(self, count: int, seconds: float) -> None:
        """The next orders, each once, in about that time."""
        these, self._orders = self._orders[:count], self._orders[count:]
        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                chance = random.Random(f"{self._seed} client {number}, {len(self._orders)} left")
                place = self._place_by_psql if number == CLIENTS - 1 else self._place
                group.start_soon(self._place_all, place, these[number::CLIENTS], seconds, chance)

    async def _place_all(self, place: Place, share: list[Order], seconds: float, chance: random.Random) -> None:
        a_job = seconds / max(1, len(share))
        while share:
            count = chance.randint(1, 6)
            await place(share[:count], chance)
            share = share[count:]
            await anyio.sleep(count * a_job * chance.uniform(0, 1.6))

    # In Python ------------------------------------------------------------------------------------------------

    async def _place(self, taken: list[Order], chance: random.Random) -> None:
        acts = (self._each_by_itself, self._in_one_transaction, self._and_rolls_back, self._as_rows)
        async with self._connected() as connection:
            await chance.choices(acts, (6, 3, 1, 2))[0](connection, taken, chance)
            if self._known and chance.random() < 0.15:
                await self._meddle(connection, chance)

    async def _each_by_itself(self, connection: Connection, taken: list[Order], _: random.Random) -> None:
        for order in taken:
            with self._call("insert", [order]) as told:
                await connection.execute(_INSERT, *order.values)
                told.answer = "ok"

    async def _as_rows(self, connection: Connection, taken: list[Order], _: random.Random) -> None:
        with self._call("insert", taken) as told:
            await connection.execute(_INSERT_ROWS, *zip(*(order.values for order in taken), strict=True))
            told.answer = "ok"

    async def _in_one_transaction(self, connection: Connection, taken: list[Order], chance: random.Random) -> None:
        """Until COMMIT is sent, whatever happens means that nothing was inserted."""
        with self._call("insert", taken) as told:
            told.answer = "failed"
            await self._insert_and_wait(connection, taken, chance)
            told.answer = "unknown"
            await connection.execute("commit")
            told.answer = "ok"

    async def _and_rolls_back(self, connection: Connection, taken: list[Order], chance: random.Random) -> None:
        with self._call("insert", taken) as told:
            told.answer = "failed"
            await self._insert_and_wait(connection, taken, chance)
            await connection.execute("rollback")

    async def _insert_and_wait(self, connection: Connection, taken: list[Order], chance: random.Random) -> None:
        await connection.execute("begin")
        for order in taken:
            await connection.execute(_INSERT, *order.values)
        await anyio.sleep(chance.choice((0.0, 0.05, 0.5)) * chance.random())

    async def _meddle(self, connection: Connection, chance: random.Random) -> None:
        operation: Operation = chance.choice(("cancel", "retry"))
        job = chance.choice(self._known[-50:])
        with self._call(operation, [Order(job, "", "", 0, None)]) as told:
            told.did = await connection.fetchval(f"select pushq.{operation}($1)", job)
            told.answer = "ok"

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """A new connection, as soon as there is one."""
        while True:
            with suppress(*AWAY):
                connection = await asyncpg.connect(self._url, timeout=5, command_timeout=8, statement_cache_size=0)
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
        with self._call("insert", taken) as told, anyio.move_on_after(10):
            told.answer = "failed" if ends == "rollback" else "unknown"
            command = [self._psql, self._url, "-Xq", "-v", "ON_ERROR_STOP=1", *arguments]
            ended = await anyio.run_process(command, check=False)
            if ended.returncode == 0 and ends == "commit":
                told.answer = "ok"

    # The log --------------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, operation: Operation, taken: Sequence[Order]) -> Iterator[_Told]:
        """Notes what was asked for, and what had been answered when it ended, in whichever way."""
        began_at, told = time.monotonic(), _Told()
        with suppress(*AWAY):
            yield told
        for order in taken:
            self.calls.append(Call(operation, order.job, told.answer, began_at, time.monotonic(), told.did))
            if operation == "insert" and told.answer != "failed":
                self._known.append(order.job)


@dataclass(slots=True)
class _Told:
    answer: Answer = "unknown"
    did: str | None = None
