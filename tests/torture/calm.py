"""After the storm: a few jobs, with no fault any more. Now whoever waits is told at once, and handlers stop when their
jobs are cancelled. In a storm neither is promised, since messages may be lost.
"""

from __future__ import annotations

import json
import random
from uuid import UUID

import anyio

from tests.torture.clients import Clients, Order
from tests.torture.schedule import QUEUES
from tests.torture.waiters import Waiters

TOLD = 12
"""Jobs that are inserted with a channel."""
WATCHED = 6
CANCELLED = 6


async def have_calm(clients: Clients, waiters: Waiters, seed: int) -> None:
    """Returns when all that was asked for has been answered: jobs may still run."""
    chance = random.Random(f"{seed} calm")
    async with anyio.create_task_group() as group:
        group.start_soon(waiters.ask_queue, UUID(int=chance.getrandbits(128), version=4))  # of which nobody knows
        for number in range(TOLD):
            order = _order(chance, "fail" if number == 0 else "nap", chance.uniform(0, 1), is_waited=True)
            group.start_soon(clients.insert, order)
        for number in range(WATCHED):
            group.start_soon(_watch, clients, waiters, _order(chance, "nap", chance.uniform(0.3, 1)), number % 2 == 0)
        for number in range(CANCELLED):
            order = _order(chance, "tidy", 9.0, is_waited=number % 2 == 0)
            group.start_soon(clients.insert_and_cancel, order, 0.5)


async def _watch(clients: Clients, waiters: Waiters, order: Order, is_by_queue: bool) -> None:
    if await clients.insert(order):
        await (waiters.ask_queue(order.job) if is_by_queue else clients.watch(order.job))


def _order(chance: random.Random, task: str, seconds: float, *, is_waited: bool = False) -> Order:
    given = json.dumps({} if task == "fail" else {"seconds": seconds})
    return Order(UUID(int=chance.getrandbits(128), version=4), task, given, 0, 2, chance.choice([*QUEUES]), is_waited)
