"""The line between a supervisor and a pool."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import anyio
import pytest

from pushq.link import Done, Drain, Link


async def test_what_is_said_at_one_end_is_heard_at_the_other_until_that_is_gone() -> None:
    one, other = await _line()
    await one.send(Drain(2.5))
    await one.send(Done())
    await one.aclose()

    assert [message async for message in other] == [Drain(2.5), Done()]
    with pytest.raises(EOFError):
        await other.receive()
    await other.aclose()


async def test_several_may_speak_at_once() -> None:
    one, other = await _line()
    async with anyio.create_task_group() as group:
        for seconds in range(5):
            group.start_soon(one.send, Drain(seconds))
    await one.aclose()

    assert [message async for message in other] == [Drain(seconds) for seconds in range(5)]
    await other.aclose()


async def test_to_stop_listening_in_the_instant_in_which_something_arrives_is_no_error() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    one, other = await _line()
    async with anyio.create_task_group() as group:
        group.start_soon(one.receive)
        await anyio.wait_all_tasks_blocked()
        await other.send(Done())
        await asyncio.sleep(0)  # the loop has seen that it is there, and not said so yet
        group.cancel_scope.cancel()
    await one.aclose()
    await other.aclose()

    assert complaints == []


async def _line() -> tuple[Link, Link]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return await Link.over(ends[0]), await Link.over(ends[1])
