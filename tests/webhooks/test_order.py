"""Deliveries of a job to a receiver that meet in one pool."""

from __future__ import annotations

from uuid import uuid4

import anyio

from pushq.webhooks.order import Order

FIRST, SECOND = uuid4(), uuid4()


async def test_without_earlier_ones_nobody_waits() -> None:
    assert await Order(5).left_of([], 60) == []


async def test_a_delivery_waits_until_the_earlier_one_is_over() -> None:
    order = Order(5)
    left: list[object] = ["not yet"]

    async def second() -> None:
        left[:] = await order.left_of([FIRST], 60)

    async with anyio.create_task_group() as group:
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        order.begin(FIRST)
        order.end(SECOND, is_over=True)
        await anyio.wait_all_tasks_blocked()
        assert left == ["not yet"]
        order.end(FIRST, is_over=True)

    assert left == []


async def test_the_end_of_an_earlier_one_is_remembered_until_the_table_knows() -> None:
    order = Order(5)
    order.begin(FIRST)
    order.end(FIRST, is_over=True)

    assert await order.left_of([FIRST], 0) == []


async def test_nobody_waits_here_for_an_earlier_one_that_is_put_off() -> None:
    order = Order(5)
    order.begin(FIRST)
    order.end(FIRST, is_over=False)

    assert await order.left_of([FIRST], 60) == [FIRST]


async def test_an_earlier_one_that_is_sent_again_counts_as_not_over() -> None:
    order = Order(0)
    order.begin(FIRST)
    order.end(FIRST, is_over=True)
    order.begin(FIRST)

    assert await order.left_of([FIRST], 60) == [FIRST]


async def test_few_wait_here_and_the_others_go_back() -> None:
    order = Order(1)
    async with anyio.create_task_group() as group:
        group.start_soon(order.left_of, [FIRST], 60)
        await anyio.wait_all_tasks_blocked()
        assert await order.left_of([FIRST], 60) == [FIRST]
        group.cancel_scope.cancel()


async def test_the_wait_ends() -> None:
    assert await Order(5).left_of([FIRST], 0.01) == [FIRST]


def test_what_is_remembered_is_bounded() -> None:
    order = Order(5)
    for _ in range(20_001):
        order.end(uuid4(), is_over=True)

    assert len(order._over) == 10_000
