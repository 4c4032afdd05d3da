"""After the calm, scenes: one after the other, a job waits for units while all pools are idle, and something gives the
units back, by each of the ways there are. Nobody polls. So the job begins only if whoever gave the units back has rung.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import anyio

from tests.torture.clients import Clients, Order
from tests.torture.connections import connected
from tests.torture.faults import Faults
from tests.torture.history import Expected
from tests.torture.needs import Needs
from tests.torture.ruler import Ruler
from tests.torture.runs import RunsLog
from tests.torture.schedule import HOSTS, LEASE, OF_ONE_HOST, Fault

SOON = 6.0
"""Seconds within which a job begins that could begin at once: in calm, on a busy machine."""
REQUEUED_WITHIN = 2 * LEASE + 3.0
"""Seconds after the death of a host within which its jobs are requeued, and their units taken by others."""
IDLE = 0.5
"""Seconds after which all pools are idle again."""
RESERVES = 1.3
"""Seconds after which a job that is overtaken reserves what it needs."""
ITS_TURN = 5.0
"""Seconds within which a lane lets others have what it holds, though more of its jobs wait."""
STREAM = 100
"""Jobs of a lane that would go on for twice as long, one after the other."""
CROWD = 30
"""Jobs that want the same at the same time."""
TIMES = 2
"""How often what they want is taken away and given back."""
A_WHILE = 8.0
"""Seconds for which a scene waits at most. Whoever begins later is late by any measure."""


class Scenes:
    """expected: which jobs must have begun when."""

    def __init__(self, url: str, clients: Clients, runs: RunsLog, ruler: Ruler, faults: Faults, seed: int) -> None:
        self._url = url
        self._clients = clients
        self._runs = runs
        self._ruler = ruler
        self._faults = faults
        self._chance = random.Random(f"{seed} scenes")
        self.expected: list[Expected] = []

    async def play(self, *, with_faults: bool) -> None:
        for scene in (
            self._capacity_is_raised,
            self._rate_brings_the_next_token,
            self._job_ends,
            self._job_fails,
            self._guest_is_cancelled,
            self._cancelled_handler_stops,
            self._reservation_is_cancelled,
            self._lane_ends_its_turn,
            *([self._host_dies] if with_faults else []),
        ):
            await scene()
            await anyio.sleep(IDLE)

    # The scenes -----------------------------------------------------------------------------------------------

    async def _capacity_is_raised(self) -> None:
        """All pools are woken at the same instant, and many jobs of several lanes want two units of one name. If all
        pools knew the same jobs, the locks of the rows would guard the units as well."""
        await self._ruler.set("scene.closed", 0)
        first = await self._insert("scene.closed", priority=-3)
        crowd = [
            Order(
                self._id(), "hold", '{"seconds": [0.02]}', priority, 2, queue, needs=_in_a_lane("scene.closed", number)
            )
            for number in range(CROWD // 2)
            for queue, priority in (("default", -1), (OF_ONE_HOST, -2))
        ]
        await self._clients.insert_rows(crowd)
        await anyio.sleep(IDLE)
        await self._expects([first], "a capacity that was 0", self._ruler.set("scene.closed", 2))
        for _ in range(TIMES):
            await self._ruler.set("scene.closed", 0)
            await anyio.sleep(IDLE / 2)
            await self._ruler.set("scene.closed", 2)

    async def _rate_brings_the_next_token(self) -> None:
        """The jobs come at once, so that they would begin at once if nothing held them back, on a slow machine too."""
        await self._ruler.set("scene.rated", None, 2.0)
        orders = [self._order("scene.rated") for _ in range(6)]
        await self._clients.insert_rows(orders)
        await self._expects([one.job for one in orders], "tokens, of which 2 come a second", within=A_WHILE)

    async def _job_ends(self) -> None:
        """And no pool of its host serves the queue of those that wait."""
        holder = await self._insert("scene.ends", seconds=[1.0])
        await self._wait_begun(holder)
        waiting = await self._insert("scene.ends", queue=OF_ONE_HOST)
        await self._expects([waiting], "a job of 1 second that was to end")

    async def _job_fails(self) -> None:
        holder = await self._insert("scene.fails", seconds=[1.0, 0.0], fails=True)
        await self._wait_begun(holder)
        waiting = await self._insert("scene.fails", queue=OF_ONE_HOST)
        await self._expects([waiting], "a job of 1 second that was to fail, and to be tried again")

    async def _guest_is_cancelled(self) -> None:
        holder = await self._insert("scene.guest", task="scene.of.guests")
        async with connected(self._url) as connection:
            await connection.execute("select pushq.take($1, 'torture scene', $2)", holder, timedelta(seconds=60))
        waiting = await self._insert("scene.guest")
        await anyio.sleep(IDLE)
        await self._expects([waiting], "a guest's job that was cancelled", self._clients.cancel(holder))

    async def _cancelled_handler_stops(self) -> None:
        """It takes 0.3 seconds to, and holds its units until then."""
        self._clients.steady_needs[holder := self._id()] = {"lamp": 1}
        await self._clients.insert(Order(holder, "tidy", '{"seconds": 9}', 0, 2, "default", needs=_needs("lamp")))
        await self._wait_begun(holder)
        self._clients.steady_needs[waiting := self._id()] = {"lamp": 1}
        order = Order(waiting, "hold", '{"seconds": [0.5]}', 0, 2, OF_ONE_HOST, needs=_needs("lamp"))
        await self._clients.insert(order)
        await anyio.sleep(IDLE)
        # Whoever rings while the handler stops must not let anybody in.
        await self._expects([waiting], "a job that was cancelled", self._cancel_and_ring(holder))

    async def _cancel_and_ring(self, job: UUID) -> None:
        await self._clients.cancel(job)
        async with connected(self._url) as connection:
            await connection.execute("select pushq.ring('')")

    async def _reservation_is_cancelled(self) -> None:
        """A job that reserves what others could use is cancelled while it waits."""
        await self._ruler.set("scene.reserved", 2)
        holder = await self._insert("scene.reserved", seconds=[RESERVES + 6 * IDLE + SOON])
        await self._wait_begun(holder)
        large = await self._insert("scene.reserved", units=2)
        await anyio.sleep(RESERVES)
        waiting = await self._insert("scene.reserved")
        await anyio.sleep(IDLE)
        await self._expects([waiting], "one that reserved 2 units and was cancelled", self._clients.cancel(large))

    async def _lane_ends_its_turn(self) -> None:
        """A lane of many jobs, of which all but the first come after the one that waits."""
        first, *others = (
            Order(self._id(), "hold", '{"seconds": [0.5]}', 0, 2, "default", needs=_needs("scene.turn"))
            for _ in range(STREAM)
        )
        await self._clients.insert(first)
        await self._wait_begun(first.job)
        waiting = await self._insert("scene.turn")
        await self._clients.insert_rows([replace(one, payload='{"seconds": [0.1]}') for one in others])
        await self._expects([waiting], "a lane that goes on for 10 seconds", within=ITS_TURN)
        await self._clients.cancel(*(one.job for one in others))

    async def _host_dies(self) -> None:
        """It alone serves the queue of what it ran, so that nobody is rung for that."""
        holder = await self._insert("scene.dies", queue=OF_ONE_HOST, seconds=[20.0, 0.0])
        await self._wait_begun(holder)
        waiting = await self._insert("scene.dies")
        await anyio.sleep(IDLE)
        fault = Fault(0.0, "kill host", HOSTS - 1, A_WHILE)
        await self._expects([waiting], "a host that died", self._faults.run([fault]), within=REQUEUED_WITHIN)

    # ----------------------------------------------------------------------------------------------------------

    async def _insert(
        self,
        *names: str,
        units: int = 1,
        queue: str = "default",
        task: str = "hold",
        seconds: Sequence[float] = (0.05,),
        fails: bool = False,
        priority: int = 0,
    ) -> UUID:
        given = {} if task != "hold" else {"seconds": [*seconds], "fails": fails}
        order = self._order(*names, units=units, queue=queue, task=task, payload=json.dumps(given), priority=priority)
        await self._clients.insert(order)
        return order.job

    def _order(
        self,
        *names: str,
        units: int = 1,
        queue: str = "default",
        task: str = "hold",
        payload: str = '{"seconds": [0.05]}',
        priority: int = 0,
    ) -> Order:
        """For a job that forms a lane of its own."""
        job = self._id()
        needs = _needs(*names, units=units, alone=f"scene.{job}")
        return Order(job, task, payload, priority, 2, queue, needs=needs)

    async def _expects(
        self, jobs: Sequence[UUID], what: str, act: Awaitable[None] | None = None, *, within: float = SOON
    ) -> None:
        """act: what lets them begin."""
        since = time.monotonic()
        self.expected += [Expected(job, since, within, what) for job in jobs]
        async with anyio.create_task_group() as group:
            if act is not None:
                group.start_soon(_wait, act)
            with anyio.move_on_after(max(A_WHILE, within)):
                for job in jobs:
                    await self._wait_begun(job)

    async def _wait_begun(self, job: UUID) -> None:
        with anyio.move_on_after(A_WHILE):
            while not self._runs.has_begun(job):  # noqa: ASYNC110 - that a handler begins is no event of ours
                await anyio.sleep(0.02)

    def _id(self) -> UUID:
        return UUID(int=self._chance.getrandbits(128), version=4)


def _needs(*names: str, units: int = 1, alone: str | None = None) -> Needs:
    return Needs(json.dumps(dict.fromkeys(names, units) | ({alone: 1} if alone else {})))


def _in_a_lane(name: str, number: int) -> Needs:
    """One of a few, which differ in what nobody has to wait for."""
    return Needs(json.dumps([name]), affinity=f"lane {number % 6}")


async def _wait(act: Awaitable[None]) -> None:
    await act
